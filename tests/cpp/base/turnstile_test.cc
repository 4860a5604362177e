#include "base/turnstile.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace smallmind {
namespace {

using Turn = Turnstile::Turn;

// Threads named by letters ask for a turn one after the other, while the turnstile is held; what is
// returned is the order in which they got theirs.
std::string order_of_turns(Turnstile& turnstile, const std::vector<int>& widths, int n_held) {
  std::string order;
  std::mutex mutex;
  std::vector<std::thread> threads;
  {
    const Turn held(turnstile, n_held);
    for (size_t i = 0; i < widths.size(); ++i) {
      threads.emplace_back([&, i] {
        const Turn turn(turnstile, widths[i]);
        const std::lock_guard lock(mutex);
        order += static_cast<char>('a' + i);
      });
      std::this_thread::sleep_for(std::chrono::milliseconds(30));  // now it waits
    }
  }
  for (std::thread& thread : threads) thread.join();
  return order;
}

TEST(TurnstileTest, ServesInTheOrderOfArrival) {
  for (int round = 0; round < 5; ++round) {
    Turnstile turnstile(2);
    EXPECT_EQ(order_of_turns(turnstile, {2, 2, 2, 2, 2}, 2), "abcde");
  }
}

// The second would fit beside the one that is held, but the first came before it.
TEST(TurnstileTest, NarrowTurnsDoNotStarveAWideOne) {
  Turnstile turnstile(2);
  EXPECT_EQ(order_of_turns(turnstile, {2, 1}, 1), "ab");
}

TEST(TurnstileTest, NeverLetsInMoreThreadsThanProcessors) {
  constexpr int kProcessors = 4;
  Turnstile turnstile(kProcessors);
  std::atomic<int> n_in_use{0};
  std::atomic<int> most{0};
  std::vector<std::thread> threads;
  for (int t = 1; t <= 6; ++t) {
    threads.emplace_back([&, n_threads = t] {
      for (int i = 0; i < 2000; ++i) {
        const Turn turn(turnstile, n_threads);
        const int n = std::min(n_threads, kProcessors);
        const int now = n_in_use.fetch_add(n) + n;
        int seen = most;
        while (seen < now && !most.compare_exchange_weak(seen, now)) {
        }
        if (i % 16 == 0) std::this_thread::yield();
        n_in_use -= n;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_in_use, 0);
  EXPECT_EQ(most, kProcessors);
}

// Two engines of one thread each are no reason to wait for each other on two processors.
TEST(TurnstileTest, TurnsThatFitTogetherRunTogether) {
  Turnstile turnstile(2);
  const Turn one(turnstile, 1);
  const Turn other(turnstile, 1);  // waits for ever if it must
}

// P-03: the parent's turn was held when it forked.
TEST(TurnstileTest, AForkedChildHasItsOwn) {
  const auto turn = std::make_unique<Turn>(Turnstile::process(), 64);
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    { const Turn own(Turnstile::process(), 64); }
    _exit(7);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(&Turnstile::process(), &Turnstile::process());
}

}  // namespace
}  // namespace smallmind
