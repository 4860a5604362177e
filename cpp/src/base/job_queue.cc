#include "base/job_queue.h"

#include <algorithm>
#include <array>
#include <exception>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "base/compute_thread.h"
#include "base/mutex.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr std::chrono::milliseconds kTickInterval{20};

constexpr const char* kShutDown = "the runtime was shut down; configure() starts it again";

Error not_sent(const std::string& reason) {
  return {ErrorKind::kThreadSafety, "Failed to send job to thread pool: " + reason};
}

}  // namespace

// On the caller's stack: the caller leaves only after the job has ended or was withdrawn. Jobs move
// between lists by their one node, so sending needs no memory.
struct JobQueue::Job {
  enum class Place : unsigned char {
    kOutside,
    kQueued,
    kRunning,
    // No longer in the queue's hands.
    kEnded,
    kWithdrawn,  // before it began
    kRefused,    // while it waited for room
  };
  struct Report {
    const char* stage = "queued";
    unsigned long long done = 0;
    unsigned long long total = 0;
  };
  Job(const Runtime::Work& work_value, CancellationToken cancel_value, Active& active_value)
      : work(work_value), cancel(std::move(cancel_value)), active(active_value) {}

  // Constant once sent.
  const Runtime::Work& work;
  const CancellationToken cancel;
  // The worker's while it runs, then the caller's.
  Active& active;
  std::exception_ptr failure;
  // Guarded by the queue's mutex.
  std::list<Job*> node{this};  // empty while the node is in one of the queue's lists
  Place place = Place::kOutside;
  Report report;
  CondVar news;
};

struct JobQueue::State {
  explicit State(const RuntimeOptions& options_value) : options(options_value) {
    threads.reserve(static_cast<size_t>(options.n_threads));
  }
  void send(Job& job) EXCLUDES(mutex);
  bool wait(Job& job, Clock::time_point until) EXCLUDES(mutex);
  Job::Report report_of(const Job& job) EXCLUDES(mutex);
  bool is_worker() EXCLUDES(mutex);
  void close(ShutdownMode mode) EXCLUDES(mutex);
  bool join(Clock::time_point deadline) EXCLUDES(mutex);

  // Constant after construction.
  const RuntimeOptions options;
  CancellationToken cancel_all;
  // Shared.
  std::atomic<int64_t> n_active{0};
  Mutex mutex;
  CondVar has_work;  // for workers
  CondVar is_idle;   // for join
  bool is_closed GUARDED_BY(mutex) = false;
  std::list<Job*> outside GUARDED_BY(mutex);
  std::list<Job*> queued GUARDED_BY(mutex);
  std::vector<std::unique_ptr<ComputeThread>> threads GUARDED_BY(mutex);
  size_t n_running GUARDED_BY(mutex) = 0;
  int64_t n_completed GUARDED_BY(mutex) = 0;

 private:
  void worker_main();
  Job* take() EXCLUDES(mutex);
  void run(Job& job) EXCLUDES(mutex);
  void finish(Job& job) EXCLUDES(mutex);
  void let_in() REQUIRES(mutex);
  void withdraw(Job& job) REQUIRES(mutex);
  void give_up(std::list<Job*>& jobs, Job::Place place) REQUIRES(mutex);
  void start_thread_if_needed() REQUIRES(mutex);
};

// --- The caller's side. ---

void JobQueue::State::send(Job& job) {
  MutexLock lock(mutex);
  if (is_closed) throw not_sent(kShutDown);
  outside.splice(outside.end(), job.node);
  let_in();
  try {
    start_thread_if_needed();
  } catch (const std::exception& error) {
    if (!threads.empty()) return;  // fewer threads than wanted still serve
    withdraw(job);
    throw not_sent(std::string("the system refused a thread (") + error.what() + ")");
  }
}

// Moves jobs from outside into the queue while it has room.
void JobQueue::State::let_in() {
  while (!outside.empty() && queued.size() < static_cast<size_t>(options.max_queue_size)) {
    outside.front()->place = Job::Place::kQueued;
    queued.splice(queued.end(), outside, outside.begin());
    has_work.notify_one();
  }
}

// Under the lock, because two callers must not both rely on the one thread that fails to start.
void JobQueue::State::start_thread_if_needed() {
  const size_t n_free = threads.size() - n_running;  // those that are just starting, too
  if (queued.size() <= n_free) return;
  if (threads.size() == static_cast<size_t>(options.n_threads)) return;
  const std::string name = options.thread_name_prefix + "-" + std::to_string(threads.size());
  threads.push_back(
      std::make_unique<ComputeThread>(name, options.stack_size, [this] { worker_main(); }));
}

// Takes a job that has not begun back to its caller.
void JobQueue::State::withdraw(Job& job) {
  std::list<Job*>& from = job.place == Job::Place::kOutside ? outside : queued;
  job.node.splice(job.node.end(), from, std::find(from.begin(), from.end(), &job));
  job.place = Job::Place::kWithdrawn;
  let_in();
  if (queued.empty() && n_running == 0) is_idle.notify_all();
}

// True when the job has ended or was withdrawn. A job that has not begun is withdrawn here when
// its token trips.
bool JobQueue::State::wait(Job& job, Clock::time_point until) {
  MutexLock lock(mutex);
  for (;;) {
    if (job.place >= Job::Place::kEnded) return true;
    Clock::time_point wake_at = until;
    if (job.place != Job::Place::kRunning) {
      if (job.cancel.cancelled()) {
        withdraw(job);
        return true;
      }
      wake_at = std::min(wake_at, job.cancel.deadline().value_or(Clock::time_point::max()));
    }
    if (Clock::now() >= until) return false;
    job.news.wait_until(mutex, wake_at);
  }
}

JobQueue::Job::Report JobQueue::State::report_of(const Job& job) {
  MutexLock lock(mutex);
  return job.report;
}

bool JobQueue::State::is_worker() {
  MutexLock lock(mutex);
  return std::any_of(threads.begin(), threads.end(),
                     [](const auto& thread) { return thread->is_current(); });
}

// --- The worker's side. ---

void JobQueue::State::worker_main() {
  while (Job* const job = take()) {
    run(*job);
    finish(*job);
  }
}

// The next job, or null when there will be no more.
JobQueue::Job* JobQueue::State::take() {
  MutexLock lock(mutex);
  while (queued.empty() && !is_closed) has_work.wait(mutex);
  if (queued.empty()) return nullptr;
  Job& job = *queued.front();
  job.node.splice(job.node.end(), queued, queued.begin());
  job.place = Job::Place::kRunning;
  job.report.stage = "running";
  ++n_running;
  let_in();
  return &job;
}

void JobQueue::State::run(Job& job) {
  reset_float_environment();  // an earlier job may have been careless
  try {
    job.cancel.check();
    CallHooks hooks;
    hooks.cancel = job.cancel;
    hooks.tick = [this, &job](const char* stage, unsigned long long done,
                              unsigned long long total) {
      MutexLock lock(mutex);
      job.report = {stage, done, total};
    };
    job.work(hooks);
  } catch (...) {
    job.failure = std::current_exception();
  }
}

// The job is its caller's again as soon as the lock is released: told before, not touched after.
void JobQueue::State::finish(Job& job) {
  MutexLock lock(mutex);
  job.active.lower();
  job.place = Job::Place::kEnded;
  job.news.notify_all();
  --n_running;
  ++n_completed;
  if (queued.empty() && n_running == 0) is_idle.notify_all();
}

// --- The end. ---

// Sends what has not begun back to its callers.
void JobQueue::State::give_up(std::list<Job*>& jobs, Job::Place place) {
  for (Job* const job : jobs) {
    job->place = place;
    job->news.notify_all();
  }
  jobs.clear();
}

void JobQueue::State::close(ShutdownMode mode) {
  {
    MutexLock lock(mutex);
    is_closed = true;
    give_up(outside, Job::Place::kRefused);
    if (mode == ShutdownMode::kCancel) give_up(queued, Job::Place::kWithdrawn);
    has_work.notify_all();
    if (queued.empty() && n_running == 0) is_idle.notify_all();
  }
  if (mode == ShutdownMode::kCancel) cancel_all.cancel();  // what runs is linked to this one
}

bool JobQueue::State::join(Clock::time_point deadline) {
  std::vector<std::unique_ptr<ComputeThread>> ended;
  {
    MutexLock lock(mutex);
    for (const auto& thread : threads) {
      if (thread->is_current()) return false;  // it would wait for itself
    }
    while (!queued.empty() || n_running > 0) {
      if (Clock::now() >= deadline) return false;
      is_idle.wait_until(mutex, deadline);
    }
    ended.swap(threads);
  }
  ended.clear();  // joins; they find the queue closed and empty
  return true;
}

// --- JobQueue. ---

JobQueue::Active::Active(const JobQueue& queue) : Active(queue.state_->n_active) {}

JobQueue::JobQueue(const RuntimeOptions& options) : state_(std::make_shared<State>(options)) {}

JobQueue::~JobQueue() {
  fork_guard_.leak_if_forked(state_);
  if (!state_) return;
  state_->close(ShutdownMode::kDrain);
  state_->join(Clock::time_point::max());
}

void JobQueue::execute(const Runtime::Work& work, const CallHooks& hooks) {
  fork_guard_.check();
  const std::shared_ptr<State> state = state_;
  Active active(state->n_active);
  execute(active, work, hooks);
}

void JobQueue::execute(Active& active, const Runtime::Work& work, const CallHooks& hooks) {
  fork_guard_.check();
  hooks.cancel.check();
  const std::shared_ptr<State> state = state_;
  const std::array parents{hooks.cancel, state->cancel_all};
  Job job(work, CancellationToken::linked(parents), active);
  if (state->is_worker()) {
    work({hooks.tick, job.cancel});
    return;
  }
  const auto wakes = job.cancel.on_change([&state, &job] {
    MutexLock lock(state->mutex);
    job.news.notify_all();
  });
  state->send(job);
  const auto tick = [&] {
    const Job::Report seen = state->report_of(job);
    hooks.tick(seen.stage, seen.done, seen.total);
  };
  const auto next_wake = [&] {
    return hooks.tick ? Clock::now() + kTickInterval : Clock::time_point::max();
  };
  try {
    while (!state->wait(job, next_wake())) tick();
  } catch (...) {
    CancellationToken(job.cancel).cancel();
    state->wait(job, Clock::time_point::max());
    throw;
  }
  if (job.failure) std::rethrow_exception(job.failure);
  if (job.place == Job::Place::kRefused) throw not_sent(kShutDown);
  if (job.place == Job::Place::kWithdrawn) {
    hooks.cancel.check();
    throw Error(ErrorKind::kCancelled, "the job was given up: the runtime was shut down");
  }
  if (hooks.tick) tick();
}

void JobQueue::close(ShutdownMode mode) {
  fork_guard_.check();
  state_->close(mode);
}

bool JobQueue::join(Clock::time_point deadline) {
  fork_guard_.check();
  return state_->join(deadline);
}

int64_t JobQueue::n_active() const noexcept { return state_->n_active.load(); }

RuntimeStatus JobQueue::status() const {
  fork_guard_.check();
  RuntimeStatus status;
  status.options = state_->options;
  status.n_active = state_->n_active.load();
  MutexLock lock(state_->mutex);
  status.is_shut_down = state_->is_closed;
  status.n_started_threads = static_cast<int>(state_->threads.size());
  status.n_queued = static_cast<int64_t>(state_->queued.size());
  status.n_running = static_cast<int64_t>(state_->n_running);
  status.n_completed = state_->n_completed;
  return status;
}

}  // namespace smallmind
