// Ends of the job queue: shutdown, destruction, fork, and a system that refuses threads.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/job_queue.h"
#include "job_queue_fixture.h"

namespace smallmind::testing {
namespace {

// C14 to C17, C44: drain runs what was taken in, refuses the senders that wait outside, and new
// ones.
TEST(JobQueueShutdownTest, DrainRunsWhatWasTakenIn) {
  HeldQueue held(2);
  std::atomic<int> n_run{0};
  held.send_in_order(4, [&](int) { ++n_run; });  // two in the queue, two outside
  held.queue.close(ShutdownMode::kDrain);
  EXPECT_FALSE(held.queue.join(Clock::now() + milliseconds(20)));  // a deadline
  eventually([&] { return held.queue.n_active() == 3; });          // those outside have gone
  expect_not_sent(thrown_by([&] { held.queue.execute([](const CallHooks&) {}, {}); }));
  EXPECT_EQ(held.queue.n_active(), 3);  // C10: lowered again
  held.gate.open();
  EXPECT_TRUE(held.queue.join(Clock::time_point::max()));
  EXPECT_TRUE(held.queue.join(Clock::now()));
  held.finish();
  EXPECT_EQ(n_run, 2);
  for (size_t i : {0, 1, 2}) EXPECT_FALSE(held.result(i).is_error);
  for (size_t i : {3, 4}) expect_not_sent(held.result(i));
  EXPECT_EQ(held.queue.status().n_started_threads, 0);
}

TEST(JobQueueShutdownTest, CancelGivesUpWhatIsQueuedAndTripsWhatRuns) {
  JobQueue queue(options(1));
  std::atomic<int> n_run{0};
  std::vector<std::thread> callers;
  std::vector<Thrown> results(4);
  for (size_t i = 0; i < results.size(); ++i) {
    callers.emplace_back([&, i] {
      results[i] = thrown_by([&] {
        queue.execute(
            [&](const CallHooks& inner) {
              ++n_run;
              eventually([&] { return inner.cancel.cancelled(); });
              inner.cancel.check();
            },
            {});
      });
    });
  }
  eventually([&] { return queue.n_active() == 4; });
  eventually([&] { return n_run == 1; });
  queue.close(ShutdownMode::kDrain);
  queue.close(ShutdownMode::kCancel);
  EXPECT_TRUE(queue.join(Clock::time_point::max()));
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(n_run, 1);
  for (const Thrown& result : results) {
    // One may not have been sent yet when the queue was closed.
    if (result.kind == ErrorKind::kThreadSafety) continue;
    EXPECT_EQ(result.kind, ErrorKind::kCancelled) << result.message;
  }
  EXPECT_EQ(queue.n_active(), 0);
}

// "Beat it" of document C: the job's own thread cannot wait for itself.
TEST(JobQueueShutdownTest, ClosesFromInsideAJob) {
  for (const ShutdownMode mode : {ShutdownMode::kDrain, ShutdownMode::kCancel}) {
    JobQueue queue(options(2));
    bool is_joined = true;
    bool nested_ran = false;
    queue.execute(
        [&](const CallHooks&) {
          queue.close(mode);
          is_joined = queue.join(Clock::time_point::max());
          nested_ran = true;
        },
        {});
    EXPECT_FALSE(is_joined);
    EXPECT_TRUE(nested_ran);
    EXPECT_TRUE(queue.join(Clock::time_point::max()));
    expect_not_sent(thrown_by([&] { queue.execute([](const CallHooks&) {}, {}); }));
  }
}

// C16, C18, C39, C46: the destructor waits for the jobs, and no thread and no memory stays.
TEST(JobQueueShutdownTest, DestructionWaitsForItsJobsAndLeavesNothing) {
  std::thread([] {}).join();  // a sanitizer's own thread comes with the first
  const size_t n_threads = thread_names().size();
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> n_run{0};
    std::vector<std::thread> callers;
    {
      JobQueue queue(options(2));
      for (int i = 0; i < 4; ++i) {
        callers.emplace_back([&queue, &n_run] {
          queue.execute(
              [&n_run](const CallHooks&) {
                std::this_thread::sleep_for(milliseconds(1));
                ++n_run;
              },
              {});
        });
      }
      eventually([&] { return queue.n_active() + n_run >= 4; });
      eventually([&] {
        const RuntimeStatus status = queue.status();
        return status.n_queued + status.n_running + status.n_completed == 4;
      });
    }
    EXPECT_EQ(n_run, 4);
    for (std::thread& caller : callers) caller.join();
  }
  eventually([&] { return thread_names().size() == n_threads; });
}

// L-07, C10, C11, C21, C41: no thread to be had. The first job fails with a typed error and leaves
// nothing behind; with one thread there, a second that cannot start is no failure.
TEST(JobQueueShutdownTest, KeepsServingWhenTheSystemRefusesThreads) {
  const pid_t child = fork();
  if (child == 0) {
    // In a process of its own: the limit is for all of a user's processes, and root has none.
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(77);
    int status = 1;
    {
      JobQueue empty(options(2));
      JobQueue started(options(2));
      started.execute([](const CallHooks&) {}, {});
      const rlimit none{0, 0};
      setrlimit(RLIMIT_NPROC, &none);
      const Thrown thrown = thrown_by([&] { empty.execute([](const CallHooks&) {}, {}); });
      const bool is_refused = thrown.kind == ErrorKind::kThreadSafety && thrown.is_error &&
                              thrown.message.find("Failed to send job") == 0;
      int depth = 0;
      started.execute([&](const CallHooks&) { ++depth; }, {});
      if (is_refused && empty.n_active() == 0 && empty.status().n_queued == 0 && depth == 1 &&
          started.status().n_started_threads == 1) {
        status = 0;
      }
    }
    _exit(status);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) {
    GTEST_LOG_(INFO) << "not run here: changing the user needs root";
    return;
  }
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// P-03: in the child everything is refused at once, and destroying does nothing.
TEST(JobQueueShutdownTest, AForkedChildIsToldAndEndsSilently) {
  auto held = std::make_unique<HeldQueue>(10);
  auto runtime = std::make_unique<JobQueue>(options(2));
  runtime->execute([](const CallHooks&) {}, {});
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    bool is_told = true;
    for (const auto& call : std::vector<std::function<void()>>{
             [&] { held->queue.execute([](const CallHooks&) {}, {}); },
             [&] { held->queue.close(ShutdownMode::kCancel); },
             [&] { held->queue.join(Clock::time_point::max()); },
             [&] { runtime->status(); },
         }) {
      is_told = is_told && thrown_by(call).kind == ErrorKind::kForkedProcess;
    }
    runtime.reset();
    held->queue.~JobQueue();
    _exit(is_told ? 9 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 9);
  held->finish();
  int n = 0;
  runtime->execute([&](const CallHooks&) { ++n; }, {});
  EXPECT_EQ(n, 1);
}

// C38, C43: senders, cancels and a shutdown race; the count ends at zero, every job that ran was
// counted once, and every sender heard of its job's end.
TEST(JobQueueShutdownTest, RacesOfSendersCancelsAndShutdownLoseNothing) {
  for (int round = 0; round < 100; ++round) {
    JobQueue queue(options(2, 2));
    std::atomic<int> n_run{0};
    std::atomic<int> n_done{0};
    std::atomic<int> n_refused{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 6; ++t) {
      callers.emplace_back([&, t] {
        for (int i = 0; i < 20; ++i) {
          CallHooks hooks;
          if (t % 3 == 1) hooks.cancel.cancel_after(0.0001 * i);
          const Thrown thrown =
              thrown_by([&] { queue.execute([&](const CallHooks&) { ++n_run; }, hooks); });
          ++(thrown.is_error ? n_refused : n_done);
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::microseconds(round * 20));
    queue.close(round % 2 == 0 ? ShutdownMode::kDrain : ShutdownMode::kCancel);
    EXPECT_TRUE(queue.join(Clock::time_point::max()));
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(n_done + n_refused, 120);
    EXPECT_EQ(n_run, n_done);
    EXPECT_EQ(queue.n_active(), 0);
    EXPECT_EQ(queue.status().n_queued, 0);
  }
}

}  // namespace
}  // namespace smallmind::testing
