// How threads of ours begin, and with what they compute.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace smallmind {

// First line of every thread of ours: the floating-point control word that numerics.md fixes, all
// asynchronous signals blocked, and a name (at most 15 characters) for debuggers and /proc.
void enter_compute_thread(const char* name);

// The control word alone, where code of others may have changed it since.
void reset_float_environment() noexcept;

// Blocks asynchronous signals in the calling thread while it lives. A thread started meanwhile
// inherits that: no signal can reach it before its first line.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t previous_;
};

// A compute thread with a stack of chosen size. Joined on destruction at the latest.
class ComputeThread {
 public:
  // stack_size in bytes, 0 for the system's default. Throws std::system_error when the system
  // refuses. REQUIRES: main throws nothing.
  ComputeThread(const std::string& name, size_t stack_size, std::function<void()> main);
  ~ComputeThread() { join(); }
  ComputeThread(const ComputeThread&) = delete;
  ComputeThread& operator=(const ComputeThread&) = delete;

  // REQUIRES: not from the thread itself.
  void join();
  bool is_current() const { return pthread_equal(handle_, pthread_self()) != 0; }

 private:
  pthread_t handle_{};
  bool is_joined_ = false;
};

}  // namespace smallmind
