#include "smallmind/runtime.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/machine.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The error of a call; none fails the test.
struct Refusal {
  ErrorKind kind;
  std::string code;
  std::string message;
};
Refusal refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.kind(), error.code(), error.what()};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {ErrorKind::kInference, "", ""};
}

RuntimeOptions with_threads(int n_threads) {
  RuntimeOptions options;
  options.n_threads = n_threads;
  return options;
}

// A job that runs until its token trips or it is let go.
struct Holder {
  std::atomic<bool> has_begun{false};
  std::atomic<bool> may_end{false};
  void operator()(const CallHooks& hooks) {
    has_begun = true;
    const auto give_up = Clock::now() + seconds(30);
    while (!may_end && Clock::now() < give_up) {
      hooks.cancel.check();
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  void wait_until_begun() const {
    while (!has_begun) std::this_thread::yield();
  }
};

// C22 to C28: defaults and presets, as document C gives them.
TEST(RuntimeTest, PresetsSetTheOptionTheyAreAbout) {
  const RuntimeOptions defaults;
  EXPECT_EQ(defaults.max_queue_size, 1000);
  EXPECT_EQ(defaults.stack_size, 0u);
  EXPECT_EQ(defaults.thread_name_prefix, "smallmind");
  const auto preset = [](const char* name) {
    RuntimeOptions options;
    apply_preset(options, name);
    return options;
  };
  EXPECT_EQ(preset("default"), defaults);
  EXPECT_EQ(preset("low_latency").max_queue_size, 100);
  EXPECT_EQ(preset("high_throughput").max_queue_size, 10'000);
  EXPECT_EQ(preset("memory_constrained").max_queue_size, 50);
  EXPECT_EQ(preset("complex_stack").stack_size, size_t{2} << 20);
  EXPECT_EQ(preset("large_stack").stack_size, size_t{4} << 20);
  EXPECT_EQ(preset("constrained_stack").stack_size, size_t{512} << 10);
  EXPECT_EQ(preset("cpu_bound").n_threads, usable_processors());
  EXPECT_EQ(preset("io_bound").n_threads, 2 * usable_processors());
  const Refusal refused = refusal_of([&] { preset("fastest\n"); });
  EXPECT_EQ(refused.kind, ErrorKind::kInvalidArgument);
  EXPECT_NE(refused.message.find("io_bound"), std::string::npos);
  EXPECT_EQ(refused.message.find('\n'), std::string::npos);
}

TEST(RuntimeTest, RefusesOptionsOutOfRangeByName) {
  Runtime runtime;
  const auto refused = [&](const char* name, const std::function<void(RuntimeOptions&)>& spoil) {
    RuntimeOptions options;
    spoil(options);
    const Refusal refusal = refusal_of([&] { runtime.configure(options); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
    EXPECT_EQ(refusal.message.find(name), 0u) << refusal.message;
  };
  for (int n : {-1, 129}) refused("n_threads", [&](RuntimeOptions& o) { o.n_threads = n; });
  for (int64_t n : {int64_t{0}, int64_t{-5}, int64_t{1'000'001}}) {
    refused("max_queue_size", [&](RuntimeOptions& o) { o.max_queue_size = n; });
  }
  for (size_t n : {size_t{1}, size_t{131'071}, (size_t{1} << 30) + 1}) {
    refused("stack_size", [&](RuntimeOptions& o) { o.stack_size = n; });
  }
  for (const char* prefix : {"", "twelve-chars", "a b", "tab\t", "\xC3\xA4"}) {
    refused("thread_name_prefix", [&](RuntimeOptions& o) { o.thread_name_prefix = prefix; });
  }
  EXPECT_EQ(runtime.status().options.max_queue_size, 1000);
}

TEST(RuntimeTest, ExecuteReturnsWhatTheJobReturns) {
  Runtime runtime;
  EXPECT_EQ(runtime.execute([](const CallHooks&) { return 7; }), 7);
  const auto owned =
      runtime.execute([](const CallHooks&) { return std::make_unique<std::string>("moved"); });
  EXPECT_EQ(*owned, "moved");
  bool has_run = false;
  runtime.execute([&](const CallHooks&) { has_run = true; });
  EXPECT_TRUE(has_run);
  EXPECT_EQ(runtime.status().n_completed, 3);
  EXPECT_EQ(runtime.status().n_active, 0);
}

// C19, C20, C36: the manager's life. Configuring again with the same options is nothing, even while
// a job runs; with others it is refused until the runtime is idle, and then they are in force.
TEST(RuntimeTest, IsConfiguredWhileIdle) {
  Runtime runtime;
  EXPECT_EQ(runtime.status().options.n_threads, usable_processors());
  runtime.configure(with_threads(1));
  Holder holder;
  std::thread caller([&] { runtime.execute(std::ref(holder)); });
  holder.wait_until_begun();
  runtime.configure(with_threads(1));
  const Refusal busy = refusal_of([&] { runtime.configure(with_threads(3)); });
  EXPECT_EQ(busy.kind, ErrorKind::kThreadSafety);
  EXPECT_EQ(busy.code, "RUNTIME_BUSY");
  EXPECT_EQ(runtime.status().options.n_threads, 1);
  holder.may_end = true;
  caller.join();
  runtime.configure(with_threads(3));
  EXPECT_EQ(runtime.status().options.n_threads, 3);
  EXPECT_EQ(runtime.status().n_started_threads, 0);  // the old ones are gone
  EXPECT_EQ(runtime.execute([](const CallHooks&) { return 1; }), 1);
}

TEST(RuntimeTest, AJobCannotConfigureTheRuntimeThatRunsIt) {
  Runtime runtime;
  runtime.execute([&](const CallHooks&) {
    EXPECT_EQ(refusal_of([&] { runtime.configure(with_threads(3)); }).code, "RUNTIME_BUSY");
  });
}

// Configuring races with jobs: every job runs, on the old threads or on the new.
TEST(RuntimeTest, NoJobIsLostBetweenTwoConfigurations) {
  Runtime runtime;
  std::atomic<bool> is_over{false};
  std::atomic<int> n_run{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 500; ++i) runtime.execute([&](const CallHooks&) { ++n_run; });
    });
  }
  int n_configured = 0;
  std::thread configurer([&] {
    for (int i = 0; !is_over; ++i) {
      try {
        runtime.configure(with_threads(1 + i % 3));
        ++n_configured;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), "RUNTIME_BUSY");
      }
      std::this_thread::yield();
    }
  });
  for (std::thread& caller : callers) caller.join();
  is_over = true;
  configurer.join();
  EXPECT_EQ(n_run, 1500);
  EXPECT_GT(n_configured, 0);
  EXPECT_EQ(runtime.status().n_active, 0);
}

// C11, C40: what is refused says so, and configure() starts it again.
TEST(RuntimeTest, RefusesJobsAfterShutdownUntilItIsConfigured) {
  Runtime runtime;
  EXPECT_TRUE(runtime.shutdown(ShutdownMode::kDrain));
  EXPECT_TRUE(runtime.shutdown(ShutdownMode::kCancel));
  EXPECT_TRUE(runtime.status().is_shut_down);
  const Refusal refusal = refusal_of([&] { runtime.execute([](const CallHooks&) {}); });
  EXPECT_EQ(refusal.kind, ErrorKind::kThreadSafety);
  EXPECT_EQ(refusal.code, "THREAD_SAFETY");
  EXPECT_EQ(refusal.message.find("Failed to send job to thread pool"), 0u) << refusal.message;
  EXPECT_EQ(runtime.status().n_active, 0);
  runtime.configure({});
  EXPECT_FALSE(runtime.status().is_shut_down);
  EXPECT_EQ(runtime.execute([](const CallHooks&) { return 2; }), 2);
}

// A deadline turns a drain into a cancel: the caller is back, and so is the job's, soon after.
TEST(RuntimeTest, ShutdownWithADeadlineCancelsWhatIsLeft) {
  Runtime runtime;
  Holder holder;
  std::atomic<bool> was_cancelled{false};
  std::thread caller([&] {
    was_cancelled =
        refusal_of([&] { runtime.execute(std::ref(holder)); }).kind == ErrorKind::kCancelled;
  });
  holder.wait_until_begun();
  const auto begin = Clock::now();
  EXPECT_FALSE(runtime.shutdown(ShutdownMode::kDrain, begin + milliseconds(30)));
  EXPECT_GE(Clock::now() - begin, milliseconds(30));
  EXPECT_TRUE(runtime.join(Clock::now() + seconds(20)));
  caller.join();
  EXPECT_TRUE(was_cancelled);
}

TEST(RuntimeTest, AJobMayShutItsRuntimeDown) {
  Runtime runtime;
  EXPECT_FALSE(runtime.execute([&](const CallHooks&) {
    return runtime.shutdown(ShutdownMode::kDrain, Clock::now() + seconds(20));
  }));
  EXPECT_TRUE(runtime.join(Clock::now() + seconds(20)));
  runtime.configure({});
  EXPECT_EQ(runtime.execute([](const CallHooks&) { return 3; }), 3);
}

// P-03: the process's own runtime works in a forked child, whatever the parent's threads were
// doing; another one says whose it is.
TEST(RuntimeTest, AForkedChildHasItsOwn) {
  auto other = std::make_unique<Runtime>();
  other->execute([](const CallHooks&) {});
  Holder holder;
  std::thread caller([&] { Runtime::process().execute(std::ref(holder)); });
  holder.wait_until_begun();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    // No thread is started here, which ThreadSanitizer forbids; the Python tests load a model.
    bool is_right = Runtime::process().status().n_active == 0;
    is_right = is_right && Runtime::process().shutdown(ShutdownMode::kDrain);
    is_right = is_right && refusal_of([&] { other->execute([](const CallHooks&) {}); }).kind ==
                               ErrorKind::kForkedProcess;
    is_right =
        is_right && refusal_of([&] { other->configure({}); }).kind == ErrorKind::kForkedProcess;
    other.reset();
    _exit(is_right ? 8 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 8);
  EXPECT_EQ(Runtime::process().status().n_active, 1);
  holder.may_end = true;
  caller.join();
  EXPECT_EQ(Runtime::process().status().n_active, 0);
}

}  // namespace
}  // namespace smallmind
