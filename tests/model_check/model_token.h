// CancellationToken for models that ask about something else: a flag that tells one listener, and
// no deadlines. As in the real one, dropping a registration waits for a call that is running.
#pragma once

#include "relacy.h"
#include "smallmind/cancellation.h"

namespace smallmind {

struct CancellationToken::State {
  CancelReason reason = CancelReason::kNone;
  model::RecursiveMutex mutex;
  std::function<void()> listener;
};

class CancellationToken::Registration {
 public:
  explicit Registration(std::shared_ptr<State> state) : state_(std::move(state)) {}
  ~Registration() {
    const std::lock_guard lock(state_->mutex);
    state_->listener = nullptr;
  }

 private:
  const std::shared_ptr<State> state_;
};

inline CancellationToken::CancellationToken() : state_(std::make_shared<State>()) {}
inline CancellationToken CancellationToken::linked(std::span<const CancellationToken> parents) {
  return parents.empty() ? CancellationToken() : parents.back();
}
inline void CancellationToken::cancel() {
  if (std::exchange(state_->reason, CancelReason::kCaller) != CancelReason::kNone) return;
  const std::lock_guard lock(state_->mutex);
  if (state_->listener) state_->listener();
}
inline CancelReason CancellationToken::reason() const noexcept { return state_->reason; }
inline bool CancellationToken::cancelled() const noexcept {
  return reason() != CancelReason::kNone;
}
inline std::optional<Clock::time_point> CancellationToken::deadline() const { return std::nullopt; }
inline void CancellationToken::check() const {}
inline std::shared_ptr<CancellationToken::Registration> CancellationToken::on_change(
    std::function<void()> listener) const {
  state_->listener = std::move(listener);
  return std::make_shared<Registration>(state_);
}

}  // namespace smallmind
