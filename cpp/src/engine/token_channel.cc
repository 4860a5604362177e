#include "engine/token_channel.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace smallmind {
namespace {

// Of a token's text, in the record of a call that waits for the end. A text that is longer on
// average makes the record grow, in a few steps.
constexpr size_t kReservedTextBytes = 8;

// A token that was held back may come with the one behind it, and another with the end.
constexpr size_t kSpareSlots = 2;

size_t ring_capacity(const RequestSpec& spec) {
  if (spec.is_collect_only) return 0;
  return std::min(spec.max_buffered, static_cast<size_t>(spec.max_tokens)) + kSpareSlots;
}

// What the request sets aside when it comes.
size_t n_bytes_of(const RequestSpec& spec) {
  const size_t record = spec.is_collect_only ? static_cast<size_t>(spec.max_tokens) *
                                                   (sizeof(int32_t) + kReservedTextBytes)
                                             : 0;
  return sizeof(TokenChannel) + spec.context.capacity() * sizeof(int32_t) +
         ring_capacity(spec) * sizeof(Token) + record;
}

std::shared_ptr<const Error> buffer_full_error(const RequestSpec& spec) {
  if (spec.on_full == OnFull::kPause) return nullptr;
  return std::make_shared<const Error>(ErrorKind::kBufferFull,
                                       "the reader of the stream is max_buffered_tokens = " +
                                           std::to_string(spec.max_buffered) + " tokens behind");
}

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

std::string in_session(const std::string& session_id, const std::string& message) {
  return "session '" + escape(session_id) + "': " + message;
}

// What is to be told once the lock is released: made before the lock, so it acts after it.
class TokenChannel::Notice {
 public:
  explicit Notice(TokenChannel& channel) : channel_(channel) {}
  ~Notice() {
    if (wants_notify) channel_.news_.notify_all();
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
  bool wants_notify = false;
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
    : spec_(std::move(spec)),
      mailbox_(std::move(mailbox)),
      buffer_full_(buffer_full_error(spec_)),
      charge_(spec_.ledger, MemoryCategory::kRequests, n_bytes_of(spec_)),
      unread_(ring_capacity(spec_)),
      is_collecting_(false) {
  if (spec_.is_collect_only) collect_from_now_on();
}

// --- The record. ---

void TokenChannel::Record::add(const Token& token) {
  text += token.text;
  ids.push_back(token.id);
  if (token.logprob) logprobs.push_back(*token.logprob);
}

void TokenChannel::Record::add(const Record& other) {
  text += other.text;
  ids.insert(ids.end(), other.ids.begin(), other.ids.end());
  logprobs.insert(logprobs.end(), other.logprobs.begin(), other.logprobs.end());
}

void TokenChannel::Record::clear() {
  text.clear();
  ids.clear();
  logprobs.clear();
}

// A cancel ends the generation here and now. A new deadline only has the waits reckoned anew, by
// the reader and, through the poke, by the loop.
void TokenChannel::on_token_change() {
  if (fork_guard_.is_forked()) return;  // a token may be used in the child, its listeners may not
  Notice notice(*this);
  MutexLock lock(mutex_);
  if (is_ended_) return;
  notice.wants_poke = true;
  if (!end_if_tripped_locked(notice)) notice.wants_notify = true;
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
    collected_.clear();
  } else if (held_) {
    held_->text += held_tail_;
    hand_over_locked(std::move(*held_));
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

bool TokenChannel::is_received_locked() const { return is_ended_ && unread_.empty(); }

void TokenChannel::hand_over_locked(Token&& token) {
  if (is_collecting_) {
    collected_.add(token);
  } else {
    unread_.push(std::move(token));
  }
}

// Wakes only whom the news concerns: one who waits for the end sleeps until then.
void TokenChannel::tell_reader_locked(Notice& notice) {
  const bool has_token = !unread_.empty();
  if ((n_waiting_next_ > 0 && (has_token || is_ended_)) || (n_waiting_end_ > 0 && is_ended_)) {
    notice.wants_notify = true;
  }
  if (waker_ && (is_ended_ || has_token)) notice.add(waker_, waker_key_);
}

void TokenChannel::throw_failure_locked() const {
  if (!error_) return;
  throw Error(error_->kind(), error_->code(), in_session(spec_.session_id, error_->what()));
}

Clock::time_point TokenChannel::wait_limit(Clock::time_point until) const {
  return std::min(until, spec_.token.deadline().value_or(Clock::time_point::max()));
}

// --- The loop's side. ---

TokenChannel::LoopView TokenChannel::poll() {
  Notice notice(*this);
  MutexLock lock(mutex_);
  end_if_tripped_locked(notice);
  is_paused_ =
      spec_.on_full == OnFull::kPause && !is_collecting_ && unread_.size() >= spec_.max_buffered;
  return {!is_ended_, !is_ended_ && !is_paused_, notice.for_loop()};
}

void TokenChannel::note_first_step(int64_t n_cached) {
  MutexLock lock(mutex_);
  first_step_at_ = Clock::now();
  n_cached_ = n_cached;
}

void TokenChannel::note_cached(int64_t n_cached) {
  MutexLock lock(mutex_);
  n_cached_ = n_cached;
}

std::shared_ptr<Waker> TokenChannel::publish(Token token, std::string tail,
                                             std::optional<FinishReason> end) {
  Notice notice(*this);
  MutexLock lock(mutex_);
  if (is_ended_) return nullptr;
  if (!first_token_at_) first_token_at_ = Clock::now();
  if (held_) hand_over_locked(*std::exchange(held_, std::nullopt));
  if (buffer_full_ && !is_collecting_ && unread_.size() >= spec_.max_buffered) {
    end_locked(FinishReason::kCancelled, buffer_full_, notice);
    return notice.for_loop();
  }
  if (end || !tail.empty()) {
    held_ = std::move(token);
    held_tail_ = std::move(tail);
  } else {
    hand_over_locked(std::move(token));
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
  unread_.clear();
  if (!is_settled_) collected_.clear();  // else all of it was received before
}

// --- The reader's side. ---

void TokenChannel::take_locked(Token& token, Notice& notice) {
  token = unread_.pop();
  received_.add(token);
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
  if (std::exchange(is_collecting_, true)) return;
  const size_t n_left = static_cast<size_t>(spec_.max_tokens) - received_.ids.size();
  collected_.ids.reserve(n_left);
  collected_.text.reserve(n_left * kReservedTextBytes);
  while (!unread_.empty()) collected_.add(unread_.pop());
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
  Record record = received_;
  record.add(collected_);
  GenerationResult result;
  result.text = std::move(record.text);
  result.token_ids = std::move(record.ids);
  result.logprobs = std::move(record.logprobs);
  result.finish_reason = is_ended_ && !error_ ? reason_ : FinishReason::kCancelled;
  result.usage.prompt_tokens = static_cast<int64_t>(spec_.context.size());
  result.usage.completion_tokens = static_cast<int64_t>(result.token_ids.size());
  result.usage.cached_tokens = n_cached_;
  result.usage.max_tokens = spec_.max_tokens;
  result.timings = timings_locked();
  result.seed = spec_.seed;
  result.session_id = spec_.session_id;
  return result;
}

std::optional<TokenChannel::Settlement> TokenChannel::settle() {
  MutexLock lock(mutex_);
  if (is_settled_ || !is_received_locked()) return std::nullopt;
  is_settled_ = true;
  Settlement settlement;
  settlement.has_failed = error_ != nullptr;
  settlement.received = received_.ids;
  settlement.received.insert(settlement.received.end(), collected_.ids.begin(),
                             collected_.ids.end());
  return settlement;
}

}  // namespace smallmind
