// One object for the whole process, also across fork().
#pragma once

#include <atomic>
#include <memory>

#include "base/fork_guard.h"

namespace smallmind {

// The process's own T, made at its first use. Thread-safe. It is never destroyed: threads may use
// it for as long as the process lives, static destructors included. A forked child gets a T of its
// own, because a lock of the parent's may be held by a thread that the child does not have.
template <class T>
T& per_process() {
  struct Slot {
    const ForkGuard guard;
    T value;
  };
  static std::atomic<Slot*> current{nullptr};
  Slot* slot = current.load(std::memory_order_acquire);
  while (slot == nullptr || slot->guard.is_forked()) {
    auto fresh = std::make_unique<Slot>();
    if (current.compare_exchange_strong(slot, fresh.get())) return fresh.release()->value;
  }
  return slot->value;
}

}  // namespace smallmind
