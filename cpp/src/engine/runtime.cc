#include "smallmind/runtime.h"

#include <algorithm>
#include <array>

#include "base/fork_guard.h"
#include "base/job_queue.h"
#include "base/machine.h"
#include "base/mutex.h"
#include "base/per_process.h"
#include "base/utf8.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr int kMaxJobThreads = 128;
constexpr int64_t kMaxQueueSize = 1'000'000;
constexpr size_t kMinStackSize = 128 << 10;
constexpr size_t kMaxStackSize = 1 << 30;
constexpr size_t kMaxPrefix = 11;  // the kernel keeps 15 characters of a name: room for "-127"

struct Preset {
  const char* name;
  void (*apply)(RuntimeOptions& options);
};

constexpr std::array kPresets = {
    Preset{"default", [](RuntimeOptions&) {}},
    Preset{"low_latency", [](RuntimeOptions& o) { o.max_queue_size = 100; }},
    Preset{"high_throughput", [](RuntimeOptions& o) { o.max_queue_size = 10'000; }},
    Preset{"memory_constrained", [](RuntimeOptions& o) { o.max_queue_size = 50; }},
    Preset{"complex_stack", [](RuntimeOptions& o) { o.stack_size = 2 << 20; }},
    Preset{"large_stack", [](RuntimeOptions& o) { o.stack_size = 4 << 20; }},
    Preset{"constrained_stack", [](RuntimeOptions& o) { o.stack_size = 512 << 10; }},
    Preset{"cpu_bound", [](RuntimeOptions& o) { o.n_threads = usable_processors(); }},
    Preset{"io_bound", [](RuntimeOptions& o) { o.n_threads = 2 * usable_processors(); }},
};

template <class Value>
void check_range(const char* option, Value value, Value least, Value most) {
  if (value >= least && value <= most) return;
  throw Error(ErrorKind::kInvalidArgument, std::string(option) + ": " + std::to_string(value) +
                                               " is outside [" + std::to_string(least) + ", " +
                                               std::to_string(most) + "]");
}

// The options with every default filled in. Throws kInvalidArgument.
RuntimeOptions checked(RuntimeOptions options) {
  if (options.n_threads == 0) options.n_threads = usable_processors();
  check_range("n_threads", options.n_threads, 1, kMaxJobThreads);
  check_range<int64_t>("max_queue_size", options.max_queue_size, 1, kMaxQueueSize);
  if (options.stack_size != 0) {
    check_range("stack_size", options.stack_size, kMinStackSize, kMaxStackSize);
  }
  const std::string& prefix = options.thread_name_prefix;
  const bool is_printable =
      std::all_of(prefix.begin(), prefix.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (prefix.empty() || prefix.size() > kMaxPrefix || !is_printable) {
    throw Error(ErrorKind::kInvalidArgument, "thread_name_prefix: '" + escape(prefix) +
                                                 "' is not 1 to " + std::to_string(kMaxPrefix) +
                                                 " printable ASCII characters without spaces");
  }
  return options;
}

}  // namespace

void apply_preset(RuntimeOptions& options, std::string_view name) {
  std::string known;
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return preset.apply(options);
    known += (known.empty() ? "" : ", ") + std::string(preset.name);
  }
  throw Error(ErrorKind::kInvalidArgument, "preset: '" + escape(name) + "' is none of " + known);
}

struct Runtime::State {
  const ForkGuard fork_guard;
  mutable Mutex mutex;
  // Replaced as a whole by configure(); it starts its threads when jobs come.
  std::shared_ptr<JobQueue> queue GUARDED_BY(mutex) = std::make_shared<JobQueue>(checked({}));

  std::shared_ptr<JobQueue> current() const EXCLUDES(mutex) {
    fork_guard.check();
    MutexLock lock(mutex);
    return queue;
  }
};

Runtime& Runtime::process() { return per_process<Runtime>(); }

Runtime::Runtime() : state_(std::make_unique<State>()) {}

Runtime::~Runtime() {
  // In a forked child the mutex may be held for ever, and the threads are not there to join.
  if (state_->fork_guard.is_forked()) static_cast<void>(state_.release());
}

void Runtime::configure(const RuntimeOptions& options) {
  const RuntimeStatus now = state_->current()->status();
  const RuntimeOptions wanted = checked(options);
  if (wanted == now.options && !now.is_shut_down) return;
  // Declared before the lock, so that what is replaced joins its idle threads after it.
  auto queue = std::make_shared<JobQueue>(wanted);
  MutexLock lock(state_->mutex);
  const int64_t n_active = state_->queue->n_active();
  if (n_active > 0) {
    throw Error(ErrorKind::kThreadSafety, "RUNTIME_BUSY",
                "the runtime has " + std::to_string(n_active) +
                    " active jobs; it can be configured while it has none");
  }
  state_->queue.swap(queue);
}

void Runtime::run(const Work& work, const CallHooks& hooks) {
  state_->fork_guard.check();
  std::shared_ptr<JobQueue> queue;
  std::optional<JobQueue::Active> active;
  {
    // Counted before the lock is released: configure() sees the job, or the job the new queue.
    MutexLock lock(state_->mutex);
    queue = state_->queue;
    active.emplace(*queue);
  }
  queue->execute(*active, work, hooks);
}

void Runtime::close(ShutdownMode mode) { state_->current()->close(mode); }

bool Runtime::join(Clock::time_point deadline) { return state_->current()->join(deadline); }

bool Runtime::shutdown(ShutdownMode mode, Clock::time_point deadline) {
  const std::shared_ptr<JobQueue> queue = state_->current();
  queue->close(mode);
  if (queue->join(deadline)) return true;
  queue->close(ShutdownMode::kCancel);
  return false;
}

RuntimeStatus Runtime::status() const { return state_->current()->status(); }

}  // namespace smallmind
