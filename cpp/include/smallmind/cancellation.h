// Cancellation: a token that any thread may trip, with a cause that tells the caller from the
// clock.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>

namespace smallmind {

using Clock = std::chrono::steady_clock;

enum class CancelReason : unsigned char { kNone, kCaller, kTimeout };

// A handle to shared state; copies are the same token. Thread-safe: any method, any thread, any
// time. The first cause wins and never changes. A deadline trips by itself: cancelled() compares it
// with the clock.
class CancellationToken {
 public:
  CancellationToken();
  // Trips kTimeout `seconds` from now. REQUIRES: finite and >= 0, else Error(kInvalidArgument).
  static CancellationToken with_timeout(double seconds);
  // Trips when any parent does, with that parent's reason; cancelling it leaves the parents alone.
  static CancellationToken linked(std::span<const CancellationToken> parents);

  void cancel();                      // reason kCaller; idempotent
  void cancel_after(double seconds);  // sets or shortens the deadline
  bool cancelled() const noexcept;
  CancelReason reason() const noexcept;
  // The earliest deadline of this token and its parents; waiters bound their wait with it.
  std::optional<Clock::time_point> deadline() const;
  // Throws Error(kCancelled) or Error(kDeadline) if tripped.
  void check() const;

  // While the returned handle lives, `listener` is called once when cancel() is called on this
  // token or a parent, and whenever a deadline is set or shortened (listeners re-read reason() and
  // deadline()). Called in the cancelling thread with no lock held that the listener could need;
  // destroying the handle waits for a running call, except from inside the listener itself. A token
  // that is already cancelled calls at once.
  class Registration;
  std::shared_ptr<Registration> on_change(std::function<void()> listener) const;

 private:
  struct State;
  explicit CancellationToken(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// How a long call in the caller's thread (load, score) reports and is stopped.
struct CallHooks {
  // Called in the caller's thread at least every 20 ms; what it throws ends the call and is
  // re-thrown. May be empty.
  std::function<void(const char* stage, unsigned long long done, unsigned long long total)> tick;
  CancellationToken cancel;
};

}  // namespace smallmind
