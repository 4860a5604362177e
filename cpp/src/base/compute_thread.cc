#include "base/compute_thread.h"

#include <system_error>
#include <utility>

#include "base/processor.h"

namespace smallmind {
namespace {

// Asynchronous signals belong to the host program's threads. Faults stay deliverable: blocked, the
// kernel would kill the process without the program's crash handler having a say.
void block_signals(sigset_t* previous) {
  sigset_t set;
  sigfillset(&set);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) {
    sigdelset(&set, fault);
  }
  pthread_sigmask(SIG_BLOCK, &set, previous);
}

struct Start {
  std::string name;
  std::function<void()> main;
};

void* thread_main(void* start) {
  const std::unique_ptr<Start> own(static_cast<Start*>(start));
  enter_compute_thread(own->name.c_str());
  own->main();
  return nullptr;
}

struct Attributes {
  Attributes() { check(pthread_attr_init(&value)); }
  ~Attributes() { pthread_attr_destroy(&value); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  static void check(int error) {
    if (error != 0) throw std::system_error(error, std::generic_category());
  }
  pthread_attr_t value;
};

}  // namespace

void enter_compute_thread(const char* name) {
  block_signals(nullptr);
  reset_float_environment();
  pthread_setname_np(pthread_self(), name);  // cut by the kernel's rule: fails beyond 15 characters
}

void reset_float_environment() noexcept { set_float_control(kStandardFloatControl); }

SignalsBlocked::SignalsBlocked() { block_signals(&previous_); }

SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

ComputeThread::ComputeThread(const std::string& name, size_t stack_size,
                             std::function<void()> main) {
  auto start = std::make_unique<Start>(Start{name, std::move(main)});
  Attributes attributes;
  if (stack_size > 0) Attributes::check(pthread_attr_setstacksize(&attributes.value, stack_size));
  const SignalsBlocked inherited;
  Attributes::check(pthread_create(&handle_, &attributes.value, &thread_main, start.get()));
  static_cast<void>(start.release());  // the thread's own now
}

void ComputeThread::join() {
  if (!std::exchange(is_joined_, true)) pthread_join(handle_, nullptr);
}

}  // namespace smallmind
