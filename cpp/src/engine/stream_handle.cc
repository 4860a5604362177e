#include "engine/stream_handle.h"

#include <utility>

namespace smallmind {

StreamHandle::~StreamHandle() {
  try {
    close();
  } catch (...) {
    // Want of memory for the history: the session stays busy, which is all that can be done here.
  }
  const ForkGuard guard = session_->fork_guard();
  guard.leak_if_forked(channel_);
  guard.leak_if_forked(session_);
}

// The end is received by whoever is told of it, be it by a return value or by an exception.
template <class Call>
Stream::Status StreamHandle::settle_after(const Call& call) {
  session_->fork_guard().check();
  try {
    const Status status = call();
    if (status != Status::kTimedOut) session_->settle(*channel_);
    return status;
  } catch (...) {
    session_->settle(*channel_);
    throw;
  }
}

Stream::Status StreamHandle::next(Token& token, Clock::duration max_wait) {
  return settle_after([&] { return channel_->next(token, max_wait); });
}

Stream::Status StreamHandle::wait_end(Clock::duration max_wait) {
  return settle_after([&] { return channel_->wait_end(max_wait); });
}

void StreamHandle::attach(std::shared_ptr<Waker> waker, uint64_t key) {
  session_->fork_guard().check();
  channel_->attach(std::move(waker), key);
}

void StreamHandle::cancel() {
  session_->fork_guard().check();
  channel_->finish(FinishReason::kCancelled);
}

void StreamHandle::close() {
  if (session_->fork_guard().is_forked()) return;
  channel_->abandon();
  session_->settle(*channel_);
}

bool StreamHandle::finished() const {
  session_->fork_guard().check();
  return channel_->is_received();
}

GenerationResult StreamHandle::result() const {
  session_->fork_guard().check();
  return channel_->result();
}

}  // namespace smallmind
