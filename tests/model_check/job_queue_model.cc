// The bounded job queue: every job runs once or its caller is told that it did not, the count of
// active jobs comes back to nothing, and closing first and joining second ends without waiting for
// anybody in vain, whether it drains or cancels (C2, C6, C9 to C18, C42 to C46, D26, G10).
#include "relacy.h"

#define MODEL_PLAIN_ATOMICS  // the count is checked when all is quiet
#include "model_error.h"
#include "model_token.h"

#include "model_begin.h"
#include "base/job_queue.cc"
#include "model_end.h"

namespace smallmind {
namespace {

// Callers send a job each to a queue with one place and one thread; the last thread shuts it down.
template <int kCallers, ShutdownMode kMode>
struct JobQueueSuite : rl::test_suite<JobQueueSuite<kCallers, kMode>, kCallers + 1> {
  static rl::thread_id_t const dynamic_thread_count = 1;
  std::unique_ptr<JobQueue> queue;
  int n_run = 0;
  int n_returned = 0;
  int n_refused = 0;

  void before() {
    RuntimeOptions options;
    options.n_threads = 1;
    options.max_queue_size = 1;
    queue = std::make_unique<JobQueue>(options);
    n_run = n_returned = n_refused = 0;
  }

  void thread(unsigned index) {
    if (index == kCallers) {
      queue->close(kMode);
      queue->join(Clock::time_point::max());
      return;
    }
    bool has_run = false;
    try {
      queue->execute(
          [&](const CallHooks&) {
            model::require(!std::exchange(has_run, true), "a job ran twice");
            ++n_run;
          },
          {});
      ++n_returned;
      model::require(has_run, "returned without having run");
    } catch (const Error&) {
      ++n_refused;
      model::require(!has_run, "refused, and yet it ran");
    }
  }

  void after() {
    model::require(n_returned + n_refused == kCallers && n_run == n_returned, "a job was lost");
    model::require(queue->n_active() == 0, "the count of active jobs is off");
    queue.reset();
  }
};

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  using namespace smallmind;
  model::Checks checks(argc, argv);
  checks.full<JobQueueSuite<1, ShutdownMode::kDrain>>();
  checks.full<JobQueueSuite<1, ShutdownMode::kCancel>>();
  checks.bounded<JobQueueSuite<2, ShutdownMode::kDrain>>(2);
  return checks.status();
}
