// Long calls in the caller's thread (load, score): progress, Ctrl-C and cancellation.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <utility>

#include "gil.h"
#include "smallmind/cancellation.h"

namespace smallmind::bindings {

// One use: `Hooks(progress, cancel).run([&](const CallHooks& hooks) {...})` runs the function
// without the GIL. What progress or a signal handler raises ends the call and is raised by run().
// REQUIRES: the GIL, at construction, run() and destruction.
class Hooks {
 public:
  Hooks(py::object progress, const std::optional<CancellationToken>& cancel);

  template <class Fn>
  void run(const Fn& fn) {
    try {
      GilRelease released;
      released_ = &released;
      fn(hooks_);
    } catch (...) {
      if (!raised_) throw;
    }
    if (raised_) throw py::error_already_set(std::move(*raised_));
    report_end();
  }

 private:
  void tick(const char* stage, unsigned long long done, unsigned long long total);
  void report_end();

  const py::object progress_;  // a callable, or None
  const bool main_thread_;
  CallHooks hooks_;
  GilRelease* released_ = nullptr;
  std::optional<py::error_already_set> raised_;
  Clock::time_point last_signals_;
  Clock::time_point last_progress_;
  std::string stage_;
  unsigned long long total_ = 0;
  unsigned long long reported_ = 0;
};

}  // namespace smallmind::bindings
