#include "gil.h"

#include <pthread.h>

#include <atomic>
#include <thread>

namespace smallmind::bindings {
namespace {

std::atomic<bool> exiting{false};
std::atomic<std::thread::id> exiting_thread{};
// Threads between their decision to take the GIL and having it. Sequentially consistent with
// `exiting`: either such a thread sees the exit, or the exit sees it and waits.
std::atomic<int> n_taking{0};

[[noreturn]] void sleep_until_process_ends() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace

GilRelease::GilRelease() : state_(PyEval_SaveThread()) {}

GilRelease::~GilRelease() {
  if (state_ != nullptr) take();
}

void GilRelease::take() {
  n_taking.fetch_add(1);
  if (exiting.load() && exiting_thread.load() != std::this_thread::get_id()) {
    n_taking.fetch_sub(1);
    sleep_until_process_ends();
  }
  PyEval_RestoreThread(state_);
  state_ = nullptr;
  n_taking.fetch_sub(1);
}

void GilRelease::give() { state_ = PyEval_SaveThread(); }

void install_fork_handler() {
  // Threads of the parent that were taking the GIL do not exist in the child.
  pthread_atfork(nullptr, nullptr, [] { n_taking.store(0); });
}

void begin_shutdown() {
  exiting_thread.store(std::this_thread::get_id());
  exiting.store(true);
}

void settle_shutdown() {
  const auto latest = Clock::now() + std::chrono::milliseconds(500);
  while (n_taking.load() > 0 && Clock::now() < latest) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

bool in_main_thread() {
  static py::handle main_thread =
      py::object(py::module_::import("threading").attr("main_thread")).release();
  const py::object ident = main_thread().attr("ident");
  return !ident.is_none() && ident.cast<unsigned long>() == PyThread_get_thread_ident();
}

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

}  // namespace smallmind::bindings
