// Mutex, its scoped lock and its condition variable, annotated for clang's -Wthread-safety, which
// does not see through the standard library's own types.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <type_traits>

#include "base/lock_order.h"

// The lock annotations: the only macros of the project.
#if defined(__clang__)
#define SMALLMIND_ANNOTATE(x) __attribute__((x))
#else
#define SMALLMIND_ANNOTATE(x)
#endif
#define CAPABILITY(name) SMALLMIND_ANNOTATE(capability(name))
#define SCOPED_CAPABILITY SMALLMIND_ANNOTATE(scoped_lockable)
#define GUARDED_BY(mutex) SMALLMIND_ANNOTATE(guarded_by(mutex))
#define REQUIRES(...) SMALLMIND_ANNOTATE(requires_capability(__VA_ARGS__))
#define ACQUIRE(...) SMALLMIND_ANNOTATE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) SMALLMIND_ANNOTATE(release_capability(__VA_ARGS__))
#define EXCLUDES(...) SMALLMIND_ANNOTATE(locks_excluded(__VA_ARGS__))

namespace smallmind {

// Never held while computing, waiting for a thread or calling out. Taken in the order of
// lock_order.h; one that names no rank is a leaf.
class CAPABILITY("mutex") Mutex {
 public:
  explicit Mutex(LockRank rank = LockRank::kLeaf) : rank_{rank} {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRE() {
    if constexpr (kChecksLockOrder) LockOrder::enter(rank_.value);
    mutex_.lock();
  }
  void unlock() RELEASE() {
    mutex_.unlock();
    if constexpr (kChecksLockOrder) LockOrder::leave();
  }

 private:
  friend class CondVar;
  struct KeptRank {
    LockRank value;
  };
  struct NoRank {
    explicit NoRank(LockRank) {}
    static constexpr LockRank value = LockRank::kLeaf;
  };
  std::mutex mutex_;
  [[no_unique_address]] const std::conditional_t<kChecksLockOrder, KeptRank, NoRank> rank_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits may wake without cause: callers loop on their condition.
class CondVar {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  void wait(Mutex& mutex) REQUIRES(mutex) {
    if constexpr (kChecksLockOrder) LockOrder::check_wait();
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False when the deadline has passed. TimePoint::max() means no deadline.
  bool wait_until(Mutex& mutex, TimePoint deadline) REQUIRES(mutex) {
    if (deadline == TimePoint::max()) {
      wait(mutex);
      return true;
    }
    if constexpr (kChecksLockOrder) LockOrder::check_wait();
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const std::cv_status status = condition_.wait_until(lock, deadline);
    lock.release();
    return status == std::cv_status::no_timeout;
  }
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace smallmind
