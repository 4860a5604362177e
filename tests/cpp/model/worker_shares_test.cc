#include "model/worker_shares.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

namespace smallmind {
namespace {

TEST(WorkerSharesTest, CoversEveryItemOnce) {
  for (const int n_threads : {1, 2, 3, 7}) {
    Gang gang(n_threads);
    for (const size_t most : {0, 1, 5, 100}) {
      const auto size = [&](size_t worker) { return worker % 2 == 0 ? most : most / 2; };
      std::vector<std::vector<std::atomic<int>>> times;
      for (size_t i = 0; i < static_cast<size_t>(n_threads); ++i) times.emplace_back(size(i));
      WorkerShares shares(n_threads, size);
      shares.for_each(gang, [&](size_t list, size_t item) { ++times.at(list).at(item); });
      for (const auto& list : times)
        for (const auto& n : list) EXPECT_EQ(n, 1);
    }
  }
}

// Its own list first, in order, and then the others'.
TEST(WorkerSharesTest, OneThreadTakesAllListsInOrder) {
  Gang gang(1);
  WorkerShares shares(3, [](size_t list) { return list + 1; });
  std::vector<std::pair<size_t, size_t>> taken;
  shares.for_each(gang, [&](size_t list, size_t item) { taken.emplace_back(list, item); });
  const std::vector<std::pair<size_t, size_t>> want = {{0, 0}, {1, 0}, {1, 1},
                                                       {2, 0}, {2, 1}, {2, 2}};
  EXPECT_EQ(taken, want);
}

// A thread that is held up in its first item leaves the rest of its list to the others.
TEST(WorkerSharesTest, OthersTakeWhatAThreadLeaves) {
  Gang gang(2);
  WorkerShares shares(2, [](size_t) { return 50; });
  std::atomic<int> n_done{0};
  shares.for_each(gang, [&](size_t list, size_t item) {
    while (list == 0 && item == 0 && n_done < 99) std::this_thread::yield();
    ++n_done;
  });
  EXPECT_EQ(n_done, 100);
}

}  // namespace
}  // namespace smallmind
