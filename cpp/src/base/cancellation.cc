#include "smallmind/cancellation.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/number_text.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr int64_t kNoDeadline = Clock::time_point::max().time_since_epoch().count();
constexpr double kLongestTimeout = 1e9;  // seconds, 31 years: the clock's range stays far away

int64_t deadline_after(const char* field, double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) {
    throw Error(
        ErrorKind::kInvalidArgument,
        std::string(field) + ": want a finite number of seconds >= 0, got " + number_text(seconds));
  }
  const std::chrono::duration<double> wait(std::min(seconds, kLongestTimeout));
  return (Clock::now() + std::chrono::duration_cast<Clock::duration>(wait))
      .time_since_epoch()
      .count();
}

// One registered listener. The call runs under a lock of its own, which is what makes dropping the
// registration wait for it; the lock is recursive so that a listener may drop itself.
struct Listener {
  std::recursive_mutex mutex;
  std::function<void()> call;
  bool is_active = true;
  bool has_seen_cancel = false;

  void notify(bool is_cancel) {
    std::lock_guard lock(mutex);
    if (!is_active || (is_cancel && has_seen_cancel)) return;
    const LockOrder::Scope order(LockRank::kListener);
    has_seen_cancel = has_seen_cancel || is_cancel;
    try {
      call();
    } catch (...) {
      // A listener that fails must not keep the others from hearing of the cancel.
    }
  }
};

}  // namespace

// Changes are pushed down to linked tokens at once, so that reading needs neither locks nor
// parents: a token's reason and deadline already hold its parents'.
struct CancellationToken::State {
  std::atomic<CancelReason> reason{CancelReason::kNone};
  std::atomic<int64_t> deadline{kNoDeadline};
  Mutex mutex;
  std::vector<std::weak_ptr<State>> children GUARDED_BY(mutex);
  size_t prune_children_at GUARDED_BY(mutex) = 16;
  std::vector<std::shared_ptr<Listener>> listeners GUARDED_BY(mutex);

  CancelReason current() noexcept;
  void trip(CancelReason cause);
  void shorten_deadline(int64_t to);
  void add_child(const std::shared_ptr<State>& child);
  template <class Visit>
  void tell(bool is_cancel, const Visit& visit_child);
};

// A passed deadline is recorded by whoever looks first; a cause that comes later loses.
CancelReason CancellationToken::State::current() noexcept {
  CancelReason seen = reason.load(std::memory_order_acquire);
  if (seen != CancelReason::kNone) return seen;
  const int64_t at = deadline.load(std::memory_order_acquire);
  if (at == kNoDeadline || Clock::now().time_since_epoch().count() < at) return seen;
  if (reason.compare_exchange_strong(seen, CancelReason::kTimeout)) return CancelReason::kTimeout;
  return seen;
}

// Calls children and listeners with no lock of this token held. Whoever is added later reads the
// new state itself, because adding takes the same lock after the state was written.
template <class Visit>
void CancellationToken::State::tell(bool is_cancel, const Visit& visit_child) {
  std::vector<std::weak_ptr<State>> children_now;
  std::vector<std::shared_ptr<Listener>> listeners_now;
  {
    MutexLock lock(mutex);
    children_now = children;
    listeners_now = listeners;
  }
  for (const std::weak_ptr<State>& weak : children_now) {
    if (const std::shared_ptr<State> child = weak.lock()) visit_child(*child);
  }
  for (const std::shared_ptr<Listener>& listener : listeners_now) listener->notify(is_cancel);
}

void CancellationToken::State::trip(CancelReason cause) {
  if (current() != CancelReason::kNone) return;
  CancelReason expected = CancelReason::kNone;
  if (!reason.compare_exchange_strong(expected, cause)) return;
  tell(true, [cause](State& child) { child.trip(cause); });
}

void CancellationToken::State::shorten_deadline(int64_t to) {
  int64_t seen = deadline.load();
  do {
    if (seen <= to) return;
  } while (!deadline.compare_exchange_weak(seen, to));
  tell(false, [to](State& child) { child.shorten_deadline(to); });
}

void CancellationToken::State::add_child(const std::shared_ptr<State>& child) {
  MutexLock lock(mutex);
  if (children.size() >= prune_children_at) {
    std::erase_if(children, [](const std::weak_ptr<State>& weak) { return weak.expired(); });
    prune_children_at = std::max<size_t>(16, 2 * children.size());
  }
  children.push_back(child);
}

class CancellationToken::Registration {
 public:
  Registration(std::shared_ptr<State> state, std::shared_ptr<Listener> listener)
      : state_(std::move(state)), listener_(std::move(listener)) {}
  ~Registration() {
    if constexpr (kChecksLockOrder) LockOrder::check_listener_drop();
    {
      MutexLock lock(state_->mutex);
      std::erase(state_->listeners, listener_);
    }
    std::lock_guard lock(listener_->mutex);
    listener_->is_active = false;
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

 private:
  const std::shared_ptr<State> state_;
  const std::shared_ptr<Listener> listener_;
};

CancellationToken::CancellationToken() : state_(std::make_shared<State>()) {}

CancellationToken::CancellationToken(std::shared_ptr<State> state) : state_(std::move(state)) {}

CancellationToken CancellationToken::with_timeout(double seconds) {
  CancellationToken token;
  token.state_->deadline.store(deadline_after("timeout", seconds));
  return token;
}

CancellationToken CancellationToken::linked(std::span<const CancellationToken> parents) {
  CancellationToken token;
  for (const CancellationToken& parent : parents) {
    parent.state_->add_child(token.state_);
    // Read after adding: a change in between is then either pushed or seen here.
    token.state_->shorten_deadline(parent.state_->deadline.load());
    const CancelReason reason = parent.reason();
    if (reason != CancelReason::kNone) token.state_->trip(reason);
  }
  return token;
}

void CancellationToken::cancel() { state_->trip(CancelReason::kCaller); }

void CancellationToken::cancel_after(double seconds) {
  state_->shorten_deadline(deadline_after("cancel_after", seconds));
}

bool CancellationToken::cancelled() const noexcept { return reason() != CancelReason::kNone; }

CancelReason CancellationToken::reason() const noexcept { return state_->current(); }

std::optional<Clock::time_point> CancellationToken::deadline() const {
  const int64_t at = state_->deadline.load();
  if (at == kNoDeadline) return std::nullopt;
  return Clock::time_point(Clock::duration(at));
}

void CancellationToken::check() const {
  switch (reason()) {
    case CancelReason::kNone:
      return;
    case CancelReason::kCaller:
      throw Error(ErrorKind::kCancelled, "cancelled by the caller");
    case CancelReason::kTimeout:
      throw Error(ErrorKind::kDeadline, "the deadline has passed");
  }
}

std::shared_ptr<CancellationToken::Registration> CancellationToken::on_change(
    std::function<void()> listener) const {
  auto entry = std::make_shared<Listener>();
  entry->call = std::move(listener);
  {
    MutexLock lock(state_->mutex);
    state_->listeners.push_back(entry);
  }
  auto registration = std::make_shared<Registration>(state_, entry);
  if (cancelled()) entry->notify(true);
  return registration;
}

}  // namespace smallmind
