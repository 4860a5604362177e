#include "engine/token_channel.h"

#include <algorithm>
#include <utility>

namespace smallmind {
namespace {

FinishReason finish_reason(CancelReason reason) {
  return reason == CancelReason::kTimeout ? FinishReason::kTimeout : FinishReason::kCancelled;
}

Clock::time_point end_of_wait(Clock::duration max_wait) {
  const Clock::time_point now = Clock::now();
  if (max_wait >= Clock::time_point::max() - now) return Clock::time_point::max();
  return now + std::max(max_wait, Clock::duration::zero());
}

double seconds_between(std::optional<Clock::time_point> from, std::optional<Clock::time_point> to) {
  if (!from || !to) return 0;
  return std::chrono::duration<double>(*to - *from).count();
}

}  // namespace

// What is to be told once the lock is released: made before the lock, so it acts after it.
class TokenChannel::Notice {
 public:
  explicit Notice(TokenChannel& channel) : channel_(channel) {}
  ~Notice() {
    if (waker_) waker_->note(key_);
    if (is_for_loop_) return;
    if (waker_) waker_->flush();
    if (wants_poke) channel_.mailbox_->poke();
  }
  Notice(const Notice&) = delete;
  Notice& operator=(const Notice&) = delete;

  // The loop flushes wakers itself, once a step, and needs no poke.
  std::shared_ptr<Waker> for_loop() {
    is_for_loop_ = true;
    return waker_;
  }
  void add(std::shared_ptr<Waker> waker, uint64_t key) {
    waker_ = std::move(waker);
    key_ = key;
  }
  bool wants_poke = false;

 private:
  TokenChannel& channel_;
  std::shared_ptr<Waker> waker_;
  uint64_t key_ = 0;
  bool is_for_loop_ = false;
};

std::shared_ptr<TokenChannel> TokenChannel::create(RequestSpec spec,
                                                   std::shared_ptr<Mailbox> mailbox) {
  std::shared_ptr<TokenChannel> channel(new TokenChannel(std::move(spec), std::move(mailbox)));
  channel->registration_ =
      channel->spec_.token.on_change([weak = std::weak_ptr<TokenChannel>(channel)] {
        if (const std::shared_ptr<TokenChannel> alive = weak.lock()) alive->on_token_change();
      });
  return channel;
}

TokenChannel::TokenChannel(RequestSpec spec, std::shared_ptr<Mailbox> mailbox)
    : spec_(std::move(spec)), mailbox_(std::move(mailbox)), is_collecting_(spec_.is_collect_only) {}

// A cancel ends the generation here and now. A new deadline only has the waits reckoned anew, by
// the reader and, through the poke, by the loop.
void TokenChannel::on_token_change() {
  if (fork_guard_.is_forked()) return;  // a token may be used in the child, its listeners may not
  Notice notice(*this);
  MutexLock lock(mutex_);
  if (is_ended_) return;
  notice.wants_poke = true;
  if (!end_if_tripped_locked(notice)) news_.notify_all();
}

// --- Under the lock. ---

bool TokenChannel::end_locked(FinishReason reason, std::shared_ptr<const Error> error,
                              Notice& notice) {
  if (is_ended_) return false;
  is_ended_ = true;
  reason_ = reason;
  error_ = std::move(error);
  ended_at_ = Clock::now();
  notice.wants_poke = true;
  if (error_ && error_->kind() == ErrorKind::kEngineClosed) {
    unread_.clear();
  } else if (held_) {
    held_->text += held_tail_;
    unread_.push_back(std::move(*held_));
  }
  held_.reset();
  tell_reader_locked(notice);
  return true;
}

bool TokenChannel::end_if_tripped_locked(Notice& notice) {
  if (is_ended_) return false;
  const CancelReason reason = spec_.token.reason();
  return reason != CancelReason::kNone && end_locked(finish_reason(reason), nullptr, notice);
}

bool TokenChannel::is_received_locked() const {
  return is_ended_ && (unread_.empty() || is_collecting_);
}

// Wakes only whom the news concerns: one who waits for the end sleeps until then.
void TokenChannel::tell_reader_locked(Notice& notice) {
  const bool has_token = !unread_.empty();
  if ((n_waiting_next_ > 0 && (has_token || is_ended_)) || (n_waiting_end_ > 0 && is_ended_)) {
    news_.notify_all();
  }
  if (waker_ && (is_ended_ || (has_token && !is_collecting_))) notice.add(waker_, waker_key_);
}

void TokenChannel::throw_failure_locked() const {
  if (error_) throw Error(*error_);
}

Clock::time_point TokenChannel::wait_limit(Clock::time_point until) const {
  return std::min(until, spec_.token.deadline().value_or(Clock::time_point::max()));
}

// --- The loop's side. ---

TokenChannel::LoopView TokenChannel::poll() {
  Notice notice(*this);
  MutexLock lock(mutex_);
  end_if_tripped_locked(notice);
  is_paused_ = !is_collecting_ && unread_.size() >= spec_.max_buffered;
  return {!is_ended_, !is_ended_ && !is_paused_, notice.for_loop()};
}

void TokenChannel::note_first_step(int64_t n_cached) {
  MutexLock lock(mutex_);
  first_step_at_ = Clock::now();
  n_cached_ = n_cached;
}

std::shared_ptr<Waker> TokenChannel::publish(Token token, std::string tail,
                                             std::optional<FinishReason> end) {
  Notice notice(*this);
  MutexLock lock(mutex_);
  if (is_ended_) return nullptr;
  if (!first_token_at_) first_token_at_ = Clock::now();
  if (held_) unread_.push_back(*std::exchange(held_, std::nullopt));
  if (end || !tail.empty()) {
    held_ = std::move(token);
    held_tail_ = std::move(tail);
  } else {
    unread_.push_back(std::move(token));
  }
  if (end) {
    end_locked(*end, nullptr, notice);
  } else {
    tell_reader_locked(notice);
  }
  return notice.for_loop();
}

std::shared_ptr<Waker> TokenChannel::publish_end(FinishReason reason) {
  Notice notice(*this);
  MutexLock lock(mutex_);
  end_locked(reason, nullptr, notice);
  return notice.for_loop();
}

std::shared_ptr<Waker> TokenChannel::fail(std::shared_ptr<const Error> error) {
  Notice notice(*this);
  MutexLock lock(mutex_);
  end_locked(FinishReason::kCancelled, std::move(error), notice);
  return notice.for_loop();
}

// --- Any thread. ---

void TokenChannel::finish(FinishReason reason) {
  Notice notice(*this);
  MutexLock lock(mutex_);
  end_locked(reason, nullptr, notice);
}

void TokenChannel::abandon() {
  Notice notice(*this);
  MutexLock lock(mutex_);
  end_locked(FinishReason::kCancelled, nullptr, notice);
  if (is_settled_ && is_collecting_) return;  // all of it was received before
  unread_.clear();
}

bool TokenChannel::is_ended() const {
  MutexLock lock(mutex_);
  return is_ended_;
}

// --- The reader's side. ---

void TokenChannel::take_locked(Token& token, Notice& notice) {
  received_.push_back(unread_.front());
  token = std::move(unread_.front());
  unread_.pop_front();
  if (is_paused_ && unread_.size() <= spec_.max_buffered / 2) {
    is_paused_ = false;
    notice.wants_poke = true;
  }
}

Stream::Status TokenChannel::next(Token& token, Clock::duration max_wait) {
  const Clock::time_point until = end_of_wait(max_wait);
  Notice notice(*this);
  MutexLock lock(mutex_);
  for (;;) {
    end_if_tripped_locked(notice);
    if (!unread_.empty()) {
      take_locked(token, notice);
      return Stream::Status::kToken;
    }
    if (is_ended_) {
      throw_failure_locked();
      return Stream::Status::kEnd;
    }
    if (Clock::now() >= until) return Stream::Status::kTimedOut;
    ++n_waiting_next_;
    news_.wait_until(mutex_, wait_limit(until));
    --n_waiting_next_;
  }
}

void TokenChannel::collect_from_now_on() {
  Notice notice(*this);
  MutexLock lock(mutex_);
  is_collecting_ = true;
  notice.wants_poke = std::exchange(is_paused_, false);
}

Stream::Status TokenChannel::wait_end(Clock::duration max_wait) {
  const Clock::time_point until = end_of_wait(max_wait);
  collect_from_now_on();  // nobody takes tokens meanwhile: a pause would never end
  Notice notice(*this);
  MutexLock lock(mutex_);
  for (;;) {
    end_if_tripped_locked(notice);
    if (is_ended_) {
      throw_failure_locked();
      return Stream::Status::kEnd;
    }
    if (Clock::now() >= until) return Stream::Status::kTimedOut;
    ++n_waiting_end_;
    news_.wait_until(mutex_, wait_limit(until));
    --n_waiting_end_;
  }
}

void TokenChannel::attach(std::shared_ptr<Waker> waker, uint64_t key) {
  Notice notice(*this);
  MutexLock lock(mutex_);
  waker_ = std::move(waker);
  waker_key_ = key;
  tell_reader_locked(notice);
}

bool TokenChannel::is_received() const {
  MutexLock lock(mutex_);
  return is_received_locked();
}

Timings TokenChannel::timings_locked() const {
  Timings timings;
  timings.queue_s = seconds_between(submitted_at_, first_step_at_ ? first_step_at_ : ended_at_);
  timings.prefill_s = seconds_between(first_step_at_, first_token_at_);
  timings.first_token_s = seconds_between(submitted_at_, first_token_at_);
  timings.decode_s = seconds_between(first_token_at_, ended_at_);
  return timings;
}

GenerationResult TokenChannel::result() const {
  MutexLock lock(mutex_);
  GenerationResult result;
  const auto add = [&result](const Token& token) {
    result.text += token.text;
    result.token_ids.push_back(token.id);
    if (token.logprob) result.logprobs.push_back(*token.logprob);
  };
  for (const Token& token : received_) add(token);
  if (is_collecting_) {
    for (const Token& token : unread_) add(token);
  }
  result.finish_reason = is_ended_ && !error_ ? reason_ : FinishReason::kCancelled;
  result.usage.prompt_tokens = static_cast<int64_t>(spec_.context.size());
  result.usage.completion_tokens = static_cast<int64_t>(result.token_ids.size());
  result.usage.cached_tokens = n_cached_;
  result.usage.max_tokens = spec_.max_tokens;
  result.timings = timings_locked();
  result.seed = spec_.seed;
  return result;
}

std::optional<TokenChannel::Settlement> TokenChannel::settle() {
  MutexLock lock(mutex_);
  if (is_settled_ || !is_received_locked()) return std::nullopt;
  is_settled_ = true;
  Settlement settlement;
  settlement.has_failed = error_ != nullptr;
  for (const Token& token : received_) settlement.received.push_back(token.id);
  if (is_collecting_) {
    for (const Token& token : unread_) settlement.received.push_back(token.id);
  }
  return settlement;
}

}  // namespace smallmind
