// A growing context and the door through which one call at a time passes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/tracking_allocator.h"
#include "engine/engine_impl.h"
#include "engine/token_channel.h"
#include "smallmind/session.h"

namespace smallmind {

// The call that has the session.
struct OpenCall {
  uint64_t number = 0;
  bool is_collect_only = false;
  Clock::time_point since = Clock::now();
  std::shared_ptr<TokenChannel> channel;  // null while the call is being prepared
  bool is_cancelled = false;              // by cancel() or close() of the session
};

// Thread-safe in the sense of Session. Streams own the session, the session only looks at its
// stream: dropping the user's handle while a stream is read changes nothing.
class TextSession : public Session, public std::enable_shared_from_this<TextSession> {
 public:
  // REQUIRES: options are checked, with an id and the limit that applies.
  TextSession(std::shared_ptr<EngineImpl> engine, SessionOptions options);
  ~TextSession() override;
  TextSession(const TextSession&) = delete;
  TextSession& operator=(const TextSession&) = delete;

  std::shared_ptr<Stream> start_text(std::string_view prompt, const SamplingParams& params,
                                     const RequestOptions& options) override;
  std::shared_ptr<Stream> start_ids(std::span<const int32_t> ids, const SamplingParams& params,
                                    const RequestOptions& options) override;
  std::shared_ptr<Stream> start_context(std::span<const int32_t> ids, const SamplingParams& params,
                                        const RequestOptions& options) override;
  void cancel() override;
  void reset() override;
  void close() override;
  std::shared_ptr<Session> fork(std::string id) override;
  bool closed() const override;
  bool busy() const override;
  std::vector<int32_t> token_ids() const override;
  int64_t size() const override;
  const std::string& id() const override { return options_.id; }

  // --- For its streams. ---
  const ForkGuard& fork_guard() const { return engine_->fork_guard(); }
  // Frees the session if the channel's end was received: the context becomes the request's plus
  // what the reader got; after a failure it stays as it was.
  void settle(TokenChannel& channel);

 private:
  struct Claim {
    uint64_t number = 0;
    std::vector<int32_t> history;
  };
  // Turns the history into the request's whole context.
  using MakeContext = std::function<std::vector<int32_t>(std::vector<int32_t> history)>;

  std::shared_ptr<Stream> start(const MakeContext& make_context, const SamplingParams& params,
                                const RequestOptions& options);
  Claim claim(bool is_collect_only);
  void unclaim(uint64_t number);
  std::shared_ptr<Stream> open(RequestSpec spec);
  RequestSpec make_spec(std::vector<int32_t> context, const SamplingParams& params) const;
  void give_way_if_cancelled();
  void start_with(std::vector<int32_t> history);
  void keep_history(std::vector<int32_t> history) REQUIRES(mutex_);
  void check_open() const REQUIRES(mutex_);
  [[noreturn]] void throw_busy() const REQUIRES(mutex_);

  // Constant after construction.
  std::shared_ptr<EngineImpl> engine_;
  const SessionOptions options_;
  const std::shared_ptr<KvHold> hold_;  // null: no KV is kept
  const std::shared_ptr<KeyAccount> account_;

  // A channel's lock and the mailbox's may be taken under it, never the other way round.
  mutable Mutex mutex_{LockRank::kSession};
  std::vector<int32_t> history_ GUARDED_BY(mutex_);
  MemoryCharge history_charge_ GUARDED_BY(mutex_);
  std::optional<OpenCall> open_ GUARDED_BY(mutex_);
  uint64_t n_calls_ GUARDED_BY(mutex_) = 0;
  bool is_closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace smallmind
