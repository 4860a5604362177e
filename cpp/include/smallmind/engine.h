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
  std::string isa;  // generic, avx2, avx2_vnni, avx512, avx512_bf16, avx512_amx or neon
  int n_threads = 0;
  int64_t context_length = 0;
  int64_t n_vocab = 0;
  int64_t n_embd = 0;
  int64_t n_layers = 0;
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes_per_token = 0;
  CacheType cache_type = CacheType::kBf16;
  uint64_t kv_limit = 0;  // bytes
};

// What is in use now, and what has been done since load.
struct EngineStatus {
  int64_t n_sessions = 0;
  int64_t n_running = 0;       // requests being computed or waiting for their turn
  int64_t n_queued = 0;        // submitted, not yet admitted to run
  int64_t n_kv_pages = 0;      // pages that running requests and open sessions hold
  int64_t n_cached_pages = 0;  // pages kept for their prefixes only; evicted when room is needed
  uint64_t kv_bytes = 0;       // all pages, those at hand for the next request included

  // Since load.
  int64_t n_cached_tokens = 0;    // prompt tokens whose KV was there (hits)
  int64_t n_computed_tokens = 0;  // prompt tokens that were computed (misses)
  int64_t n_generated_tokens = 0;
  int64_t n_evicted_pages = 0;
  int64_t n_steps = 0;
};

// The bytes that an engine holds of the system's memory, by what they are for.
struct EngineMemory {
  uint64_t weights = 0;
  uint64_t kv = 0;         // all pages: those of the next two, and those at hand for new requests
  uint64_t kv_in_use = 0;  // pages that running requests and open sessions hold
  uint64_t kv_cached = 0;  // pages kept for their prefixes only; evicted when room is needed
  uint64_t kv_limit = 0;   // what kv may grow to
  uint64_t workspace = 0;  // the buffers of a step
  uint64_t tokenizer = 0;
  uint64_t requests = 0;  // ids, buffered tokens and records of requests; histories of sessions
  uint64_t total = 0;     // weights + kv + workspace + tokenizer + requests
  uint64_t peak = 0;      // the most that total ever was
};

// Thread-safe: any method, any thread, any time. Sessions and streams keep the engine's weights
// alive.
class Engine {
 public:
  // Reads, checks and packs the model, in a job of Runtime::process() that may wait for its turn,
  // then starts the loop thread. All or nothing. Throws Error(kThreadSafety) after that runtime's
  // shutdown.
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
  // kv_in_use and kv_cached as of the last step, the others as of now.
  virtual EngineMemory memory() const = 0;
};

}  // namespace smallmind
