// One generation between the engine's loop and its reader: what was asked, the tokens on their way,
// and exactly one end.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_guard.h"
#include "base/mutex.h"
#include "base/tracking_allocator.h"
#include "engine/mailbox.h"
#include "engine/token_ring.h"
#include "smallmind/cancellation.h"
#include "smallmind/error.h"
#include "smallmind/stream.h"

namespace smallmind {

struct KeyAccount;
struct KvHold;

// An error's message with whose it is in front.
std::string in_session(const std::string& session_id, const std::string& message);

// Checked and complete before it is queued; immutable.
struct RequestSpec {
  std::shared_ptr<KvHold> hold;  // whose KV it continues; null: none is kept
  std::shared_ptr<KeyAccount> account;
  std::shared_ptr<MemoryLedger> ledger;  // where what it sets aside is entered; may be null
  std::vector<int32_t> context;          // all ids before the first generated one; not empty
  SamplingParams params;
  uint64_t seed = 0;
  int64_t max_tokens = 0;   // given or derived, at most what the context leaves
  CancellationToken token;  // the caller's, linked with the timeout
  bool is_collect_only = false;
  std::string session_id;
  std::string cache_salt;
  size_t max_buffered = 256;
  OnFull on_full = OnFull::kPause;
};

// Thread-safe. The end is a latch: the loop (stop, length, failure), the caller (cancel, close),
// the clock and the engine's close race for it, the first wins and the others change nothing. An
// ended channel takes no more tokens, so the reader is free at once while the loop still finishes
// its step. The lock is a leaf: readers, mailbox and waker are told after it is released.
// All that the loop needs is allocated by create(), in the caller's thread: tokens wait in a ring
// of max_buffered places, or, where nobody reads them one by one, in a record reserved for
// max_tokens.
class TokenChannel : public std::enable_shared_from_this<TokenChannel> {
 public:
  static std::shared_ptr<TokenChannel> create(RequestSpec spec, std::shared_ptr<Mailbox> mailbox);
  TokenChannel(const TokenChannel&) = delete;
  TokenChannel& operator=(const TokenChannel&) = delete;

  const RequestSpec& spec() const noexcept { return spec_; }

  // --- The loop's side. What is returned as a waker has a note and wants one flush after the step.
  struct LoopView {
    bool is_alive = true;
    bool is_runnable = true;
    std::shared_ptr<Waker> waker;
  };
  // Also ends the generation if its token has tripped.
  LoopView poll();
  void note_first_step(int64_t n_cached);
  // Of the prompt's tokens, those that were not computed for it.
  void note_cached(int64_t n_cached);
  // Hands over a token. `tail` is the text held back behind it: while there is some, the token
  // waits, because it must carry the tail should it be the last. With `end`, it is the last.
  // REQUIRES: the last poll() said that it is runnable, and no token was published since.
  std::shared_ptr<Waker> publish(Token token, std::string tail, std::optional<FinishReason> end);
  // The end without a further token (an end-of-generation token was chosen).
  std::shared_ptr<Waker> publish_end(FinishReason reason);
  std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error);

  // --- Any thread. ---
  // Ends it from outside; nothing happens if it has ended.
  void finish(FinishReason reason);
  // finish(), and what was not received is dropped.
  void abandon();
  bool is_ended() const noexcept { return is_ended_.load(std::memory_order_acquire); }

  // --- The reader's side; see Stream. ---
  Stream::Status next(Token& token, Clock::duration max_wait);
  Stream::Status wait_end(Clock::duration max_wait);
  void attach(std::shared_ptr<Waker> waker, uint64_t key);
  // Ended, and nothing is left for the reader to take.
  bool is_received() const;
  const std::string& session_id() const noexcept { return spec_.session_id; }
  GenerationResult result() const;

  // What the session keeps: the generated ids that the reader received.
  struct Settlement {
    bool has_failed = false;
    std::vector<int32_t> received;
  };
  // Given once, to the first who asks after the end was received.
  std::optional<Settlement> settle();

 private:
  class Notice;
  // What results are made of.
  struct Record {
    std::string text;
    std::vector<int32_t> ids;
    std::vector<TokenLogprob> logprobs;

    void add(const Token& token);
    void add(const Record& other);
    void clear();
  };
  TokenChannel(RequestSpec spec, std::shared_ptr<Mailbox> mailbox);
  void on_token_change();
  void collect_from_now_on();
  // The latch. False when it had ended before.
  bool end_locked(FinishReason reason, std::shared_ptr<const Error> error, Notice& notice)
      REQUIRES(mutex_);
  bool end_if_tripped_locked(Notice& notice) REQUIRES(mutex_);
  bool is_received_locked() const REQUIRES(mutex_);
  void hand_over_locked(Token&& token) REQUIRES(mutex_);
  void take_locked(Token& token, Notice& notice) REQUIRES(mutex_);
  void tell_reader_locked(Notice& notice) REQUIRES(mutex_);
  void throw_failure_locked() const REQUIRES(mutex_);
  Timings timings_locked() const REQUIRES(mutex_);
  Clock::time_point wait_limit(Clock::time_point until) const;

  // Constant after creation.
  const ForkGuard fork_guard_;
  const RequestSpec spec_;
  const std::shared_ptr<Mailbox> mailbox_;
  const Clock::time_point submitted_at_ = Clock::now();

  const std::shared_ptr<const Error> buffer_full_;  // null with OnFull::kPause
  const MemoryCharge charge_;

  // Written under the lock, once.
  std::atomic<bool> is_ended_{false};

  mutable Mutex mutex_;
  CondVar news_;
  int n_waiting_next_ GUARDED_BY(mutex_) = 0;
  int n_waiting_end_ GUARDED_BY(mutex_) = 0;
  TokenRing unread_ GUARDED_BY(mutex_);
  std::optional<Token> held_ GUARDED_BY(mutex_);
  std::string held_tail_ GUARDED_BY(mutex_);
  Record received_ GUARDED_BY(mutex_);
  Record collected_ GUARDED_BY(mutex_);    // what a call that waits for the end will get whole
  bool is_collecting_ GUARDED_BY(mutex_);  // somebody wants the end only: there is no limit
  bool is_paused_ GUARDED_BY(mutex_) = false;
  bool is_settled_ GUARDED_BY(mutex_) = false;
  FinishReason reason_ GUARDED_BY(mutex_) = FinishReason::kCancelled;
  std::shared_ptr<const Error> error_ GUARDED_BY(mutex_);
  std::shared_ptr<Waker> waker_ GUARDED_BY(mutex_);
  uint64_t waker_key_ GUARDED_BY(mutex_) = 0;
  int64_t n_cached_ GUARDED_BY(mutex_) = 0;
  std::optional<Clock::time_point> first_step_at_ GUARDED_BY(mutex_);
  std::optional<Clock::time_point> first_token_at_ GUARDED_BY(mutex_);
  std::optional<Clock::time_point> ended_at_ GUARDED_BY(mutex_);

  // Written once by create(). Last, so that it goes first: dropping it waits for a running call.
  std::shared_ptr<CancellationToken::Registration> registration_;
};

}  // namespace smallmind
