// Turns on the processors: steps of different engines in one process run one after the other where
// together they would want more threads than the machine has.
#pragma once

#include "base/mutex.h"

namespace smallmind {

// Thread-safe. First come, first served: a turn that does not fit yet holds up those behind it, so
// a wide step is never starved by narrow ones. No memory is allocated.
class Turnstile {
 public:
  explicit Turnstile(int n_processors) : n_processors_(n_processors) {}
  Turnstile();  // usable_processors()
  Turnstile(const Turnstile&) = delete;
  Turnstile& operator=(const Turnstile&) = delete;

  // The one that all engines of the process share. A forked child has its own.
  static Turnstile& process();

  // Room for n_threads threads while it lives; the constructor waits for it. A turn of more threads
  // than there are processors gets them all. A thread holds one turn at a time.
  class Turn {
   public:
    Turn(Turnstile& turnstile, int n_threads);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Turnstile& turnstile_;
    const int n_threads_;
  };

 private:
  // One who waits, on the waiting thread's stack.
  struct Waiter {
    int n_threads = 0;
    bool is_admitted = false;
    CondVar admitted;
    Waiter* next = nullptr;
  };
  void enter(int n_threads) EXCLUDES(mutex_);
  void leave(int n_threads) EXCLUDES(mutex_);
  void admit_waiters() REQUIRES(mutex_);

  const int n_processors_;
  Mutex mutex_;
  int n_in_use_ GUARDED_BY(mutex_) = 0;
  Waiter* first_ GUARDED_BY(mutex_) = nullptr;
  Waiter* last_ GUARDED_BY(mutex_) = nullptr;
};

}  // namespace smallmind
