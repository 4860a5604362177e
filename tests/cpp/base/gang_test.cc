#include "base/gang.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/processor.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

TEST(GangTest, RunsEveryItemOnceWhateverTheNumberOfThreads) {
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    Gang gang(n_threads);
    EXPECT_EQ(gang.n_threads(), n_threads);
    for (size_t round = 0; round < 3000; ++round) {
      const size_t n_items = round % 67;
      std::vector<int> n_runs(n_items);
      gang.for_each(n_items, [&](size_t item, int worker) {
        ++n_runs[item];
        if (worker < 0 || worker >= n_threads) ++n_runs[item];
      });
      for (int n : n_runs) ASSERT_EQ(n, 1);
    }
  }
}

// After a pause the helpers are parked, and wake again.
TEST(GangTest, WakesParkedHelpers) {
  Gang gang(3);
  for (int round = 0; round < 30; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // Each item waits for the others, so no two can be run by one worker.
    std::atomic<int> n_there{0};
    gang.for_each(3, [&](size_t, int) {
      ++n_there;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (n_there < 3 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    });
    ASSERT_EQ(n_there, 3);
  }
}

TEST(GangTest, CarriesTheFirstExceptionToTheCallerAndWorksOn) {
  for (int n_threads : {1, 2, 4}) {
    Gang gang(n_threads);
    for (int round = 0; round < 300; ++round) {
      EXPECT_THROW(gang.for_each(20,
                                 [&](size_t item, int) {
                                   if (item == static_cast<size_t>(round % 20)) {
                                     throw std::runtime_error("item");
                                   }
                                 }),
                   std::runtime_error);
      std::atomic<size_t> sum{0};
      gang.for_each(20, [&](size_t item, int) { sum += item; });
      ASSERT_EQ(sum, 190u);
    }
  }
}

TEST(GangTest, RefusesARegionInsideARegion) {
  Gang gang(2);
  EXPECT_THROW(gang.for_each(4, [&](size_t, int) { gang.for_each(4, [](size_t, int) {}); }), Error);
  std::atomic<int> n{0};
  gang.for_each(4, [&](size_t, int) { ++n; });
  EXPECT_EQ(n, 4);
}

// A library built with fast-math may have set these bits in the thread that makes the gang.
TEST(GangTest, HelpersComputeWithStandardFloatingPointAndBlockSignals) {
  const uint32_t before = float_control();
  set_float_control(before | kFlushesSubnormals);
  Gang gang(2);
  set_float_control(before);
  std::atomic<int> n_there{0};
  std::atomic<int> n_bad{0};
  gang.for_each(2, [&](size_t, int worker) {
    ++n_there;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (n_there < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
    if (worker == 0) return;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    if (float_control() != kStandardFloatControl) ++n_bad;
    for (int number : {SIGINT, SIGTERM, SIGCHLD, SIGALRM, SIGUSR1}) {
      if (sigismember(&blocked, number) != 1) ++n_bad;
    }
  });
  EXPECT_EQ(n_there, 2);
  EXPECT_EQ(n_bad, 0);
}

}  // namespace
}  // namespace smallmind
