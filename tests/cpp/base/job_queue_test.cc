#include "base/job_queue.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "smallmind/error.h"

namespace smallmind {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

RuntimeOptions options(int n_threads, int64_t max_queue_size = 1000) {
  RuntimeOptions made;
  made.n_threads = n_threads;
  made.max_queue_size = max_queue_size;
  return made;
}

// Closed gates hold jobs up.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, seconds(60), [this] { return is_open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
};

// Waits until what should come comes; a test that waits in vain fails.
void eventually(const std::function<bool()>& condition) {
  const auto give_up = Clock::now() + seconds(20);
  while (!condition()) {
    ASSERT_LT(Clock::now(), give_up);
    std::this_thread::sleep_for(milliseconds(1));
  }
}

// What a call throws.
struct Thrown {
  bool is_error = false;
  ErrorKind kind{};
  std::string code;
  std::string message;
};
Thrown thrown_by(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {true, error.kind(), error.code(), error.what()};
  } catch (const std::exception& error) {
    return {true, {}, "", error.what()};
  }
  return {};
}

void expect_not_sent(const Thrown& thrown) {
  EXPECT_EQ(thrown.kind, ErrorKind::kThreadSafety) << thrown.message;
  EXPECT_EQ(thrown.code, "THREAD_SAFETY");
  EXPECT_EQ(thrown.message.find("Failed to send job to thread pool"), 0u) << thrown.message;
}

// The names of this process's threads.
std::multiset<std::string> thread_names() {
  std::multiset<std::string> names;
  DIR* const folder = opendir("/proc/self/task");
  while (const dirent* const entry = readdir(folder)) {
    std::ifstream file(std::string("/proc/self/task/") + entry->d_name + "/comm");
    std::string name;
    if (std::getline(file, name)) names.insert(name);
  }
  closedir(folder);
  return names;
}

// A queue whose only thread is held up, so that what comes later stays in the queue.
class HeldQueue {
 public:
  explicit HeldQueue(int64_t max_queue_size) : queue(options(1, max_queue_size)) {
    send([this](const CallHooks&) { gate.wait(); });
    eventually([this] { return queue.status().n_running == 1; });
  }
  ~HeldQueue() {
    gate.open();
    for (std::thread& caller : callers_) caller.join();
  }
  void send(Runtime::Work work, CallHooks hooks = {}) {
    results_.emplace_back(std::make_unique<Thrown>());
    callers_.emplace_back(
        [this, work = std::move(work), hooks = std::move(hooks), result = results_.back().get()] {
          *result = thrown_by([&] { queue.execute(work, hooks); });
        });
  }
  // Sends jobs one after the other, so that their order is known.
  void send_in_order(int n, const std::function<void(int)>& run) {
    const int64_t before = queue.n_active();
    for (int i = 0; i < n; ++i) {
      send([run, i](const CallHooks&) { run(i); });
      eventually([&] { return queue.n_active() == before + i + 1; });
      std::this_thread::sleep_for(milliseconds(2));
    }
  }
  const Thrown& result(size_t i) const { return *results_[i]; }
  void finish() {
    gate.open();
    for (std::thread& caller : callers_) caller.join();
    callers_.clear();
  }

  Gate gate;
  JobQueue queue;

 private:
  std::vector<std::thread> callers_;
  std::vector<std::unique_ptr<Thrown>> results_;
};

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
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  JobQueue queue(options(1));
  unsigned seen = 0;
  sigset_t blocked;
  sigemptyset(&blocked);
  const auto look = [&](const CallHooks&) {
    seen = _mm_getcsr() & ~0x3Fu;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    _mm_setcsr(seen | 0x8040);
  };
  for (int i = 0; i < 2; ++i) {
    queue.execute(look, {});
    EXPECT_EQ(seen, 0x1F80u);
  }
  _mm_setcsr(before);
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

// C14 to C17, C44: drain runs what was taken in, refuses the senders that wait outside, and new
// ones.
TEST(JobQueueTest, DrainRunsWhatWasTakenIn) {
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

TEST(JobQueueTest, CancelGivesUpWhatIsQueuedAndTripsWhatRuns) {
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
TEST(JobQueueTest, ClosesFromInsideAJob) {
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
TEST(JobQueueTest, DestructionWaitsForItsJobsAndLeavesNothing) {
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
TEST(JobQueueTest, KeepsServingWhenTheSystemRefusesThreads) {
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
TEST(JobQueueTest, AForkedChildIsToldAndEndsSilently) {
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
TEST(JobQueueTest, RacesOfSendersCancelsAndShutdownLoseNothing) {
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
}  // namespace smallmind
