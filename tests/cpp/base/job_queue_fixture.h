// What the tests of the job queue share: gates, a queue that is held up, and the process's threads.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/job_queue.h"
#include "smallmind/error.h"

namespace smallmind::testing {

using std::chrono::milliseconds;
using std::chrono::seconds;

inline RuntimeOptions options(int n_threads, int64_t max_queue_size = 1000) {
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
inline void eventually(const std::function<bool()>& condition) {
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

inline Thrown thrown_by(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {true, error.kind(), error.code(), error.what()};
  } catch (const std::exception& error) {
    return {true, {}, "", error.what()};
  }
  return {};
}

inline void expect_not_sent(const Thrown& thrown) {
  EXPECT_EQ(thrown.kind, ErrorKind::kThreadSafety) << thrown.message;
  EXPECT_EQ(thrown.code, "THREAD_SAFETY");
  EXPECT_EQ(thrown.message.find("Failed to send job to thread pool"), 0u) << thrown.message;
}

// The names of this process's threads.
inline std::multiset<std::string> thread_names() {
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

}  // namespace smallmind::testing
