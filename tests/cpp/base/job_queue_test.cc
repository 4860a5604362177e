#include "base/job_queue.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/processor.h"
#include "job_queue_fixture.h"

namespace smallmind::testing {
namespace {

// C34, C24, C25: creation and configuration.
TEST(JobQueueTest, StartsNamedThreadsWhenJobsNeedThem) {
  RuntimeOptions wanted = options(3);
  wanted.thread_name_prefix = "bitnet-ffi";
  JobQueue queue(wanted);
  EXPECT_EQ(queue.status().n_started_threads, 0);
  for (int i = 0; i < 20; ++i) queue.execute([](const CallHooks&) {}, {});
  EXPECT_EQ(queue.status().n_started_threads, 1);  // one after the other: one is enough
  Gate gate;
  std::vector<std::thread> callers;
  for (int i = 0; i < 5; ++i) {
    callers.emplace_back([&] { queue.execute([&](const CallHooks&) { gate.wait(); }, {}); });
  }
  eventually([&] { return queue.status().n_running == 3; });
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(queue.status().n_running, 3);
  EXPECT_EQ(queue.status().n_queued, 2);
  const std::multiset<std::string> names = thread_names();
  for (const char* name : {"bitnet-ffi-0", "bitnet-ffi-1", "bitnet-ffi-2"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
  gate.open();
  for (std::thread& caller : callers) caller.join();
}

// C24. The large one is more than any system's default; the small one may get a stack that the C
// library kept from an earlier thread.
TEST(JobQueueTest, ThreadsHaveTheStackThatWasAskedFor) {
  for (const size_t wanted : {size_t{128} << 10, size_t{256} << 20}) {
    RuntimeOptions with_stack = options(1);
    with_stack.stack_size = wanted;
    JobQueue queue(with_stack);
    size_t size = 0;
    queue.execute(
        [&](const CallHooks&) {
          pthread_attr_t attributes;
          pthread_getattr_np(pthread_self(), &attributes);
          pthread_attr_getstacksize(&attributes, &size);
          pthread_attr_destroy(&attributes);
        },
        {});
    EXPECT_GE(size, wanted);
  }
}

// A job of a careless program sets these bits; the next one, which packs weights say, must not see
// them.
TEST(JobQueueTest, ThreadsBlockSignalsAndComputeWithStandardFloatingPoint) {
  const uint32_t before = float_control();
  set_float_control(before | kFlushesSubnormals);
  JobQueue queue(options(1));
  uint32_t seen = 0;
  sigset_t blocked;
  sigemptyset(&blocked);
  const auto look = [&](const CallHooks&) {
    seen = float_control();
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    set_float_control(seen | kFlushesSubnormals);
  };
  for (int i = 0; i < 2; ++i) {
    queue.execute(look, {});
    EXPECT_EQ(seen, kStandardFloatControl);
  }
  set_float_control(before);
  for (int number : {SIGINT, SIGTERM, SIGALRM}) EXPECT_EQ(sigismember(&blocked, number), 1);
  for (int number : {SIGSEGV, SIGABRT}) EXPECT_EQ(sigismember(&blocked, number), 0);
}

// C8, C35: what a job throws comes out, and the thread lives on. C12, C13, C43: the count is right
// on every way out.
TEST(JobQueueTest, CarriesExceptionsAndCountsEveryWayOut) {
  JobQueue queue(options(2));
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(thrown_by([&] {
                queue.execute([](const CallHooks&) { throw std::runtime_error("job"); }, {});
              }).message,
              "job");
    EXPECT_EQ(queue.n_active(), 0);
    EXPECT_THROW(queue.execute([](const CallHooks&) { throw 7; }, {}), int);
    EXPECT_THROW(queue.execute([](const CallHooks&) { throw std::bad_alloc(); }, {}),
                 std::bad_alloc);
    int64_t n_seen = 0;
    queue.execute([&](const CallHooks&) { n_seen = queue.n_active(); }, {});
    EXPECT_EQ(n_seen, 1);
    EXPECT_EQ(queue.n_active(), 0);
  }
  EXPECT_EQ(queue.status().n_completed, 800);
}

// C5, C6, C42: the queue never holds more than its bound; the other senders wait outside, and are
// let in in the order in which they came.
TEST(JobQueueTest, SendersWaitWhileTheQueueIsFull) {
  HeldQueue held(2);
  std::mutex mutex;
  std::vector<int> order;
  held.send_in_order(7, [&](int i) {
    const std::lock_guard lock(mutex);
    order.push_back(i);
  });
  const RuntimeStatus status = held.queue.status();
  EXPECT_EQ(status.n_queued, 2);
  EXPECT_EQ(status.n_running, 1);
  EXPECT_EQ(status.n_active, 8);  // C9: counted before they are in the queue
  held.finish();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(held.queue.n_active(), 0);
}

// C37: many threads, no more jobs at once than threads, none lost.
TEST(JobQueueTest, RunsTheJobsOfManyThreads) {
  JobQueue queue(options(3, 4));
  std::atomic<int> n_now{0};
  std::atomic<int> n_most{0};
  std::atomic<int> n_run{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 16; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        queue.execute(
            [&](const CallHooks&) {
              const int now = ++n_now;
              int most = n_most;
              while (most < now && !n_most.compare_exchange_weak(most, now)) {
              }
              ++n_run;
              --n_now;
            },
            {});
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(n_run, 16 * 300);
  EXPECT_LE(n_most, 3);
  EXPECT_EQ(queue.n_active(), 0);
}

// A sender gives up at its deadline or when it is cancelled, outside as well as in the queue, at
// once; its place is free, and the job never runs.
TEST(JobQueueTest, CancelAndDeadlineWithdrawWhatHasNotBegun) {
  HeldQueue held(1);
  std::atomic<int> n_run{0};
  const auto job = [&](const CallHooks&) { ++n_run; };
  CallHooks in_queue;
  held.send(job, in_queue);
  eventually([&] { return held.queue.status().n_queued == 1; });
  CallHooks outside;
  held.send(job, outside);
  eventually([&] { return held.queue.n_active() == 3; });

  CallHooks timed;
  timed.cancel = CancellationToken::with_timeout(0.05);
  auto begin = Clock::now();
  EXPECT_EQ(thrown_by([&] { held.queue.execute(job, timed); }).kind, ErrorKind::kDeadline);
  EXPECT_GE(Clock::now() - begin, milliseconds(50));
  EXPECT_LT(Clock::now() - begin, milliseconds(1000));
  // A deadline that is set while it waits counts, too.
  CallHooks later;
  std::thread setter([&] {
    std::this_thread::sleep_for(milliseconds(30));
    later.cancel.cancel_after(0.02);
  });
  EXPECT_EQ(thrown_by([&] { held.queue.execute(job, later); }).kind, ErrorKind::kDeadline);
  setter.join();
  EXPECT_EQ(thrown_by([&] { held.queue.execute(job, timed); }).kind, ErrorKind::kDeadline);

  begin = Clock::now();
  in_queue.cancel.cancel();
  eventually([&] { return held.queue.n_active() == 2; });
  EXPECT_LT(Clock::now() - begin, milliseconds(1000));
  eventually([&] { return held.queue.status().n_queued == 1; });  // the one from outside came in
  outside.cancel.cancel();
  eventually([&] { return held.queue.n_active() == 1; });
  EXPECT_EQ(held.queue.status().n_queued, 0);
  held.finish();
  EXPECT_EQ(held.result(1).kind, ErrorKind::kCancelled);
  EXPECT_EQ(held.result(2).kind, ErrorKind::kCancelled);
  EXPECT_EQ(n_run, 0);
}

TEST(JobQueueTest, ARunningJobSeesItsCallersCancel) {
  JobQueue queue(options(1));
  CallHooks hooks;
  std::atomic<bool> has_begun{false};
  std::thread canceller([&] {
    eventually([&] { return has_begun.load(); });
    hooks.cancel.cancel();
  });
  const Thrown thrown = thrown_by([&] {
    queue.execute(
        [&](const CallHooks& inner) {
          has_begun = true;
          eventually([&] { return inner.cancel.cancelled(); });
          inner.cancel.check();
        },
        hooks);
  });
  canceller.join();
  EXPECT_EQ(thrown.kind, ErrorKind::kCancelled);
}

// Progress comes in the caller's thread, while the job waits and while it runs; what it throws ends
// the job first.
TEST(JobQueueTest, TicksInTheCallersThread) {
  HeldQueue held(1);
  std::vector<std::string> stages;
  CallHooks hooks;
  const std::thread::id caller = std::this_thread::get_id();
  hooks.tick = [&](const char* stage, unsigned long long done, unsigned long long total) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    if (stages.empty() || stages.back() != stage) stages.push_back(stage);
    if (stages.back() == "queued") held.gate.open();
    if (stages.back() == "work") {
      EXPECT_EQ(done * 10 + total, 34u);
    }
  };
  std::atomic<bool> has_ended{false};
  const Runtime::Work work = [&](const CallHooks& inner) {
    std::this_thread::sleep_for(milliseconds(60));
    inner.tick("work", 3, 4);
    std::this_thread::sleep_for(milliseconds(60));
    has_ended = true;
  };
  held.queue.execute(work, hooks);
  EXPECT_EQ(stages, (std::vector<std::string>{"queued", "running", "work"}));
  held.finish();

  has_ended = false;
  hooks.tick = [](const char* stage, unsigned long long, unsigned long long) {
    if (std::string(stage) == "work") throw std::logic_error("no more");
  };
  EXPECT_THROW(held.queue.execute(work, hooks), std::logic_error);
  EXPECT_TRUE(has_ended);  // it does not know how to be cancelled, and is waited for
  EXPECT_EQ(held.queue.n_active(), 0);
}

// C29 to C31, C45: a job may use the queue that runs it, full or not, to any depth, and its nested
// job's failure is its own.
TEST(JobQueueTest, NestedJobsRunInPlaceAndNeverWait) {
  HeldQueue held(1);
  std::atomic<int> n_run{0};
  std::function<void(int)> nest = [&](int depth) {
    held.queue.execute(
        [&](const CallHooks&) {
          ++n_run;
          if (depth > 0) nest(depth - 1);
        },
        {});
  };
  held.send([&](const CallHooks&) {
    const std::thread::id here = std::this_thread::get_id();
    std::thread::id there;
    held.queue.execute([&](const CallHooks&) { there = std::this_thread::get_id(); }, {});
    EXPECT_EQ(here, there);
    EXPECT_THROW(
        held.queue.execute([](const CallHooks&) { throw std::runtime_error("inner"); }, {}),
        std::runtime_error);
    nest(50);
  });
  eventually([&] { return held.queue.status().n_queued == 1; });
  held.send([](const CallHooks&) {});  // keeps the queue full while the nesting job runs
  held.finish();
  EXPECT_EQ(n_run, 51);
  EXPECT_EQ(held.queue.n_active(), 0);
}

}  // namespace
}  // namespace smallmind::testing
