// base/mutex.h over Relacy: found before the real one, so the sources under test use it unchanged.
#pragma once

#include "relacy.h"

#define CAPABILITY(name)
#define SCOPED_CAPABILITY
#define GUARDED_BY(mutex)
#define REQUIRES(...)
#define ACQUIRE(...)
#define RELEASE(...)
#define EXCLUDES(...)

namespace smallmind {

class Mutex {
 public:
  void lock() {
    inner_.lock(model::here());
    ++n_held();
  }
  void unlock() {
    rl::preemption_disabler at_once(rl::ctx());
    --n_held();
    inner_.unlock(model::here());
  }

 private:
  friend class CondVar;
  // Locks that the running thread holds.
  static int& n_held() {
    static int counts[16];
    return counts[rl::ctx().current_thread()];
  }
  rl::mutex inner_;
};

class MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CondVar {
 public:
  void wait(Mutex& mutex) {
    --Mutex::n_held();
    inner_.wait(mutex.inner_, model::here());
    ++Mutex::n_held();
  }
  // Models wait without limits: a time that comes would only be a run more.
  template <class TimePoint>
  bool wait_until(Mutex& mutex, TimePoint) {
    wait(mutex);
    return true;
  }
  void notify_one() {
    notify([this] { inner_.notify_one(model::here()); });
  }
  void notify_all() {
    notify([this] { inner_.notify_all(model::here()); });
  }

 private:
  // Under a lock nobody can come between; outside of one, between the change and the notice, all
  // can.
  template <class Notify>
  static void notify(const Notify& now) {
    if (Mutex::n_held() == 0) return now();
    rl::preemption_disabler at_once(rl::ctx());
    now();
  }
  rl::condition_variable inner_;
};

}  // namespace smallmind
