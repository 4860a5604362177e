// One model, many sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "smallmind/cancellation.h"
#include "smallmind/options.h"
#include "smallmind/session.h"
#include "smallmind/tokenizer.h"

namespace smallmind {

struct EngineInfo {
  std::string architecture;
  std::string model_name;  // general.name, escaped
  std::string model_path;
  std::string isa;  // generic, avx2 or avx512
  int n_threads = 0;
  int64_t context_length = 0;
  int64_t n_vocab = 0;
  int64_t n_embd = 0;
  int64_t n_layers = 0;
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes_per_token = 0;
};

// What is in use now; zero everywhere when idle (but n_sessions).
struct EngineStatus {
  int64_t n_sessions = 0;
  int64_t n_running = 0;   // requests being computed or waiting for their turn
  int64_t n_queued = 0;    // submitted, not yet seen by the loop
  int64_t n_kv_pages = 0;  // pages that hold KV of running requests or of sessions
};

// Thread-safe: any method, any thread, any time. Sessions and streams keep the engine's weights
// alive.
class Engine {
 public:
  // Reads, checks and packs the model, then starts the loop thread. All or nothing.
  static std::shared_ptr<Engine> load(const EngineOptions& options, const CallHooks& hooks = {});
  virtual ~Engine() = default;

  virtual std::shared_ptr<Session> text_session(const SessionOptions& options) = 0;
  virtual std::shared_ptr<const Tokenizer> tokenizer() const = 0;

  // Raw logits after each of `positions` (ascending, each < ids.size()); ids as they are, nothing
  // added. out is [positions.size(), n_vocab]; it is filled in slabs. Throws kCancelled or
  // kDeadline if cancelled.
  virtual void score(std::span<const int32_t> ids, std::span<const int64_t> positions, float* out,
                     const CallHooks& hooks) = 0;

  // Ends running requests with kEngineClosed, joins the loop thread, frees the weights when the
  // last user is gone. Idempotent.
  virtual void close() = 0;
  virtual bool closed() const = 0;
  virtual EngineInfo info() const = 0;
  virtual EngineStatus status() const = 0;
};

}  // namespace smallmind
