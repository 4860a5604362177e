#include "base/turnstile.h"

#include <algorithm>

#include "base/machine.h"
#include "base/per_process.h"

namespace smallmind {

Turnstile::Turnstile() : Turnstile(usable_processors()) {}

Turnstile& Turnstile::process() { return per_process<Turnstile>(); }

Turnstile::Turn::Turn(Turnstile& turnstile, int n_threads)
    : turnstile_(turnstile), n_threads_(std::min(n_threads, turnstile.n_processors_)) {
  turnstile_.enter(n_threads_);
}

Turnstile::Turn::~Turn() { turnstile_.leave(n_threads_); }

void Turnstile::enter(int n_threads) {
  MutexLock lock(mutex_);
  Waiter self;
  self.n_threads = n_threads;
  (first_ == nullptr ? first_ : last_->next) = &self;
  last_ = &self;
  admit_waiters();
  while (!self.is_admitted) self.admitted.wait(mutex_);
}

void Turnstile::leave(int n_threads) {
  MutexLock lock(mutex_);
  n_in_use_ -= n_threads;
  admit_waiters();
}

// A waiter is gone as soon as it sees that it was admitted, which takes the lock: it is told under
// the lock, and not touched afterwards.
void Turnstile::admit_waiters() {
  while (first_ != nullptr && n_in_use_ + first_->n_threads <= n_processors_) {
    Waiter& admitted = *first_;
    first_ = admitted.next;
    n_in_use_ += admitted.n_threads;
    admitted.is_admitted = true;
    admitted.admitted.notify_one();
  }
}

}  // namespace smallmind
