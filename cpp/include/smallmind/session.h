// One growing context.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smallmind/cancellation.h"
#include "smallmind/options.h"
#include "smallmind/stream.h"

namespace smallmind {

struct RequestOptions {
  std::optional<CancellationToken> cancel;
  std::optional<double> timeout_s;  // from the call, queue included; finite and > 0
  bool collect_only = false;  // nobody reads tokens one by one: wake once, at the end (generate)
};

// Single-owner by use, not by thread: one call at a time, from any thread; a second call while a
// stream is open throws kSessionBusy, which says what is open, since when, and names cancel().
// cancel(), close(), id() and busy() may be called from any thread at any time.
class Session {
 public:
  virtual ~Session() = default;

  // Appends the prompt to the context (BOS once, at its start) and generates. An empty prompt is
  // kInvalidArgument.
  virtual std::shared_ptr<Stream> start_text(std::string_view prompt, const SamplingParams& params,
                                             const RequestOptions& options) = 0;
  // The same with ids taken as they are, appended.
  virtual std::shared_ptr<Stream> start_ids(std::span<const int32_t> ids,
                                            const SamplingParams& params,
                                            const RequestOptions& options) = 0;
  // The ids are the whole context: what they share with the present one from the start is reused (a
  // chat's turn).
  virtual std::shared_ptr<Stream> start_context(std::span<const int32_t> ids,
                                                const SamplingParams& params,
                                                const RequestOptions& options) = 0;

  virtual void cancel() = 0;  // of the open stream; no-op when idle
  virtual void reset() = 0;   // empties the context; kSessionBusy while a stream is open
  virtual void close() = 0;   // cancels first, never busy; idempotent
  // A new session with the same context, options and salt; it shares the KV of what both hold.
  // kSessionBusy while a stream is open. `id` empty: generated.
  virtual std::shared_ptr<Session> fork(std::string id) = 0;
  virtual bool closed() const = 0;
  virtual bool busy() const = 0;
  // Context tokens: prompts and the generated tokens that were received.
  virtual std::vector<int32_t> token_ids() const = 0;
  virtual int64_t size() const = 0;
  virtual const std::string& id() const = 0;
};

}  // namespace smallmind
