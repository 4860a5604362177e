// The process's threads for whole jobs (loading a model, work of the program's own), with a bounded
// queue in front of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "smallmind/cancellation.h"

namespace smallmind {

struct RuntimeOptions {
  int n_threads = 0;              // 1 ... 128; 0: as many as the machine allows (affinity, cgroup)
  int64_t max_queue_size = 1000;  // jobs that wait for a thread, 1 ... 1,000,000
  size_t stack_size = 0;  // bytes of each thread, 128 KiB ... 1 GiB; 0: the system's default
  // 1 ... 11 printable ASCII characters: threads are called smallmind-0, smallmind-1 and so on.
  std::string thread_name_prefix = "smallmind";
  bool operator==(const RuntimeOptions&) const = default;
};

// Sets the one option that the preset is about. Throws Error(kInvalidArgument) for an unknown name.
//   max_queue_size: low_latency 100, high_throughput 10,000, memory_constrained 50
//   stack_size:     complex_stack 2 MiB, large_stack 4 MiB, constrained_stack 512 KiB
//   n_threads:      cpu_bound as many as the machine allows, io_bound twice that
// "default" sets nothing: RuntimeOptions{} is the default of all three.
void apply_preset(RuntimeOptions& options, std::string_view name);

struct RuntimeStatus {
  RuntimeOptions options;  // in force; n_threads is never 0
  bool is_shut_down = false;
  int n_started_threads = 0;  // threads start when jobs need them
  int64_t n_active = 0;   // jobs in the hands of the runtime, those whose caller waits for room too
  int64_t n_queued = 0;   // of these, in the queue
  int64_t n_running = 0;  // of these, on a thread
  int64_t n_completed = 0;  // since the last configure
};

// kDrain runs what was taken in; kCancel trips the token of every job, running ones too.
enum class ShutdownMode : unsigned char { kDrain, kCancel };

class JobQueue;

// Thread-safe: any method, any thread, any time, a job's own thread too. It takes no lock while a
// job runs. In a child forked from the process that made it, every method throws
// Error(kForkedProcess), and destroying it does nothing.
class Runtime {
 public:
  using Work = std::function<void(const CallHooks& hooks)>;

  // The one that all engines of the process share. Never destroyed. A forked child has its own,
  // with default options.
  static Runtime& process();

  Runtime();
  // Takes in no more, then runs what was taken in, then joins. REQUIRES: not in a job of its own.
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Puts the options in force, after shutdown too. The same options again do nothing. Throws
  // Error(kInvalidArgument) naming the option, or Error(kThreadSafety, RUNTIME_BUSY) while jobs are
  // active; then nothing has changed.
  void configure(const RuntimeOptions& options);

  // Runs the job on one of the threads and returns what it returns or throws what it throws. Waits
  // while the queue is full, and until the job has ended. hooks.tick is called in the caller's
  // thread, every 20 ms and at the end, with what the job last reported through its own hooks'
  // tick; what it throws cancels the job and is thrown after the job's end. hooks.cancel: a job
  // that has not begun is given up at once, with Error(kCancelled) or Error(kDeadline); one that
  // runs sees its own hooks.cancel trip. A job's own call of execute runs its job in the same
  // thread, at once: it needs no place in the queue and can wait for nobody. After shutdown, or
  // when the system refuses the first thread: Error(kThreadSafety), "Failed to send job to thread
  // pool".
  template <class Fn>
  auto execute(const Fn& fn, const CallHooks& hooks = {}) {
    using Result = std::invoke_result_t<const Fn&, const CallHooks&>;
    if constexpr (std::is_void_v<Result>) {
      run([&](const CallHooks& inner) { fn(inner); }, hooks);
    } else {
      std::optional<Result> result;
      run([&](const CallHooks& inner) { result.emplace(fn(inner)); }, hooks);
      return Result(std::move(*result));
    }
  }

  // No job is taken in any more, until configure(). Callers that wait for room in the queue get
  // Error(kThreadSafety). Returns at once; a later kCancel sharpens kDrain.
  void close(ShutdownMode mode);
  // Waits until what was taken in has ended and the threads are gone; false if the deadline came
  // first, and at once in a job of its own. REQUIRES: close() was called.
  bool join(Clock::time_point deadline);
  // close(mode) and join(deadline). What still runs at the deadline is cancelled, not waited for.
  bool shutdown(ShutdownMode mode, Clock::time_point deadline = Clock::time_point::max());

  RuntimeStatus status() const;

 private:
  void run(const Work& work, const CallHooks& hooks);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace smallmind
