// Tells a process from the one that made an object: after fork() only the forking thread lives on
// in the child, so locks may be held by threads that do not exist there.
#pragma once

#include <unistd.h>

#include <memory>
#include <utility>

#include "smallmind/error.h"

namespace smallmind {

// Immutable; any thread, any process.
class ForkGuard {
 public:
  ForkGuard() : owner_(getpid()) {}
  bool is_forked() const noexcept { return getpid() != owner_; }
  // Throws Error(kForkedProcess) in a child of the process that made the object.
  void check() const {
    if (!is_forked()) return;
    throw Error(ErrorKind::kForkedProcess,
                "this object belongs to the parent of this forked process; load a new Engine here");
  }
  // In a child: lets `object` live for ever, because destroying it could wait for threads that the
  // child does not have.
  template <class T>
  void leak_if_forked(std::shared_ptr<T>& object) const {
    if (object && is_forked()) static_cast<void>(new std::shared_ptr<T>(std::move(object)));
  }

 private:
  const pid_t owner_;
};

}  // namespace smallmind
