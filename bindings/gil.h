// The GIL around calls into the core: released while the core computes or waits, safe when the
// interpreter exits under waiting threads, and with Python's signals looked at in between.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

#include "smallmind/cancellation.h"

namespace smallmind::bindings {

namespace py = pybind11;

// Gives the GIL away for its lifetime. REQUIRES: held at construction.
// From begin_shutdown() on, no other thread gets the GIL back through it: such a thread sleeps
// until the process ends. CPython before 3.14 would end the thread by unwinding its stack, and the
// first destructor on the way would terminate the process.
class GilRelease {
 public:
  GilRelease();
  ~GilRelease();
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

  // The GIL back and away again, for a call into Python in between.
  void take();
  void give();

 private:
  PyThreadState* state_;
};

// Called once by module initialisation.
void install_fork_handler();

// Called by Python's atexit in the thread that ends the interpreter: from here on other threads
// stay in the core. settle_shutdown(), without the GIL, waits for those that are just leaving it.
void begin_shutdown();
void settle_shutdown();

// True in the thread in which Python runs its signal handlers.
bool in_main_thread();

// Throws what a signal handler raised (KeyboardInterrupt). REQUIRES: the GIL.
void check_signals();

inline constexpr std::chrono::milliseconds kSignalSlice{20};

// Runs `step(max_wait)`, which waits at most that long and says whether it is done, until it is.
// A step that is done at once costs no change of the GIL. The main thread waits in slices and
// looks for signals after each; the others wait in one piece.
template <class Step>
void wait_for(const Step& step) {
  bool done = step(Clock::duration::zero());
  const bool slices = in_main_thread();
  if (slices) check_signals();
  while (!done) {
    {
      const GilRelease released;
      done = step(slices ? Clock::duration(kSignalSlice) : Clock::duration::max());
    }
    if (slices) check_signals();
  }
}

}  // namespace smallmind::bindings
