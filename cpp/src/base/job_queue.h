// The bounded queue of jobs and its threads, behind Runtime.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/fork_guard.h"
#include "smallmind/cancellation.h"
#include "smallmind/runtime.h"

namespace smallmind {

// Thread-safe. Threads start when jobs need them, at most n_threads, and stay until the queue is
// closed. Nothing is locked while a job runs, and waiting is on condition variables.
//
// A job is on its caller's stack, and goes: outside (no room yet) -> queued -> running -> ended.
// Whoever takes a job from the queue lets the first one from outside in, so order is first come,
// first served. Jobs outside or in the queue are withdrawn by their own callers.
class JobQueue {
 public:
  // Counts one job as active: raised before the job is sent, lowered by the worker after the job,
  // or at the end of its own life on every other way out. Sequentially consistent. REQUIRES: the
  // queue outlives it.
  class Active {
   public:
    explicit Active(const JobQueue& queue);
    explicit Active(std::atomic<int64_t>& count) : count_(&count) { count.fetch_add(1); }
    ~Active() { lower(); }
    Active(const Active&) = delete;
    Active& operator=(const Active&) = delete;
    void lower() noexcept {
      if (count_ != nullptr) count_->fetch_sub(1);
      count_ = nullptr;
    }

   private:
    std::atomic<int64_t>* count_;
  };

  // REQUIRES: valid options, n_threads >= 1.
  explicit JobQueue(const RuntimeOptions& options);
  // Closes first, joins second; waits for all jobs that were taken in. REQUIRES: not in a job.
  ~JobQueue();
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;

  // As Runtime::execute. The second form is for a caller who has counted the job already.
  void execute(const Runtime::Work& work, const CallHooks& hooks);
  void execute(Active& active, const Runtime::Work& work, const CallHooks& hooks);

  // As in Runtime.
  void close(ShutdownMode mode);
  bool join(Clock::time_point deadline);

  int64_t n_active() const noexcept;
  RuntimeStatus status() const;
  bool is_forked() const noexcept { return fork_guard_.is_forked(); }

 private:
  struct Job;
  struct State;
  const ForkGuard fork_guard_;
  std::shared_ptr<State> state_;  // callers share it while they are in execute
};

}  // namespace smallmind
