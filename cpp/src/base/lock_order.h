// The order in which locks are taken, and a check of it for builds that pay for one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smallmind {

// A lock is taken only under locks of a lower rank, so nobody can wait in a circle. Nothing is
// taken under a leaf. docs/threading.md says what each lock guards.
enum class LockRank : uint8_t {
  kSession = 1,   // TextSession: looks at its channel and writes to the mailbox under it
  kListener = 2,  // held while a cancellation listener is called
  kLeaf = 3,      // all others
};

// Debug builds, those with sanitizers and those with SMALLMIND_CHECK_INVARIANTS check every lock.
inline constexpr bool kChecksLockOrder = SMALLMIND_CHECKS_LOCK_ORDER;

// What the calling thread holds. A violation throws Error(kInference, LOCK_ORDER) before anything
// is taken: it is a mistake of ours that a test shall see.
class LockOrder {
 public:
  static void enter(LockRank rank);
  static void leave() noexcept;
  // A thread waits for news holding the one lock that guards them.
  static void check_wait();
  // Taking back a listener waits for its running call, which takes leaves; inside the call itself
  // nothing is waited for.
  static void check_listener_drop();
  static size_t n_held() noexcept;
  // In the process so far: a listener's own mistakes are swallowed with whatever else it throws.
  static size_t n_violations() noexcept;

  // Held for its lifetime, where the lock is not a Mutex. Nothing in builds without the check.
  class Scope {
   public:
    explicit Scope(LockRank rank) {
      if constexpr (kChecksLockOrder) enter(rank);
    }
    ~Scope() {
      if constexpr (kChecksLockOrder) leave();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
  };
};

}  // namespace smallmind
