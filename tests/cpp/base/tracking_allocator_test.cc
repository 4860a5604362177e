#include "base/tracking_allocator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "allocation_counter.h"

namespace smallmind {
namespace {

using Category = MemoryCategory;
template <class T>
using KvVector = std::vector<T, TrackedAllocator<T, Category::kKv>>;

TEST(MemoryLedgerTest, CountsLiveBytesByCategory) {
  MemoryLedger ledger;
  ledger.add(Category::kWeights, 1000);
  ledger.add(Category::kKv, 200);
  ledger.add(Category::kKv, 30);
  ledger.subtract(Category::kKv, 200);
  const MemoryLedger::Snapshot seen = ledger.snapshot();
  EXPECT_EQ(seen.bytes_of(Category::kWeights), 1000);
  EXPECT_EQ(seen.bytes_of(Category::kKv), 30);
  EXPECT_EQ(seen.bytes_of(Category::kOther), 0);
  EXPECT_EQ(seen.total_live, 1030);
  EXPECT_EQ(seen.peak_live, 1230);
  EXPECT_EQ(seen.n_allocations, 3);
}

// D6: two categories that peak at different times; the sum of their peaks would be 200.
TEST(MemoryLedgerTest, PeakIsOfTheSumNotTheSumOfPeaks) {
  MemoryLedger ledger;
  ledger.add(Category::kKv, 100);
  ledger.subtract(Category::kKv, 100);
  ledger.add(Category::kWorkspace, 100);
  EXPECT_EQ(ledger.snapshot().peak_live, 100);
}

// D6: with a lock around each change the peak is known exactly; the ledger, which takes none,
// agrees.
TEST(MemoryLedgerTest, PeakIsExactUnderContention) {
  for (int round = 0; round < 20; ++round) {
    MemoryLedger ledger;
    std::mutex mutex;
    int64_t live = 0;
    int64_t peak = 0;
    const auto change = [&](Category category, int64_t bytes) {
      const std::lock_guard lock(mutex);
      live += bytes;
      peak = std::max(peak, live);
      if (bytes > 0) {
        ledger.add(category, static_cast<size_t>(bytes));
      } else {
        ledger.subtract(category, static_cast<size_t>(-bytes));
      }
    };
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([&change, t, round] {
        std::minstd_rand random(static_cast<unsigned>(round) * 4 + t + 1);
        const auto category = static_cast<Category>(t);
        std::vector<int64_t> held;
        for (int i = 0; i < 500; ++i) {
          if (!held.empty() && random() % 2 == 0) {
            change(category, -held.back());
            held.pop_back();
          } else {
            held.push_back(static_cast<int64_t>(random() % 1000 + 1));
            change(category, held.back());
          }
        }
        for (const int64_t bytes : held) change(category, -bytes);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(ledger.snapshot().total_live, 0);
    EXPECT_EQ(ledger.snapshot().peak_live, peak);
  }
}

// No lock at all: all threads hold their bytes at one moment, and no more than that is ever held.
TEST(MemoryLedgerTest, ConcurrentChangesLoseNothing) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 20'000;
  MemoryLedger ledger;
  std::atomic<int> n_holding{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&ledger, &n_holding] {
      for (int i = 0; i < kRounds; ++i) {
        ledger.add(Category::kRequests, 7);
        ledger.subtract(Category::kRequests, 7);
      }
      ledger.add(Category::kRequests, 11);
      ++n_holding;
      while (n_holding < kThreads) std::this_thread::yield();
      ledger.subtract(Category::kRequests, 11);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const MemoryLedger::Snapshot seen = ledger.snapshot();
  EXPECT_EQ(seen.total_live, 0);
  EXPECT_EQ(seen.bytes_of(Category::kRequests), 0);
  EXPECT_EQ(seen.peak_live, kThreads * 11);
  EXPECT_EQ(seen.n_allocations, kThreads * (kRounds + 1));
}

TEST(TrackedAllocatorTest, ContainersEnterWhatTheyHold) {
  const auto ledger = std::make_shared<MemoryLedger>();
  {
    KvVector<double> values{TrackedAllocator<double, Category::kKv>(ledger)};
    values.resize(100);
    EXPECT_EQ(ledger->snapshot().bytes_of(Category::kKv), 800);
    KvVector<double> copy = values;
    EXPECT_EQ(ledger->snapshot().total_live, 1600);
    const KvVector<double> moved = std::move(copy);
    EXPECT_EQ(ledger->snapshot().total_live, 1600);
    // A node-based container allocates another type than it holds.
    using Nodes = TrackedAllocator<std::pair<const int, int>, Category::kRequests>;
    std::map<int, int, std::less<>, Nodes> nodes{Nodes(ledger)};
    nodes[1] = 2;
    EXPECT_GE(ledger->snapshot().bytes_of(Category::kRequests),
              static_cast<int64_t>(2 * sizeof(int)));
  }
  EXPECT_EQ(ledger->snapshot().total_live, 0);
  EXPECT_EQ(ledger.use_count(), 1);
}

TEST(TrackedAllocatorTest, KeepsTheAlignmentOfTheType) {
  struct alignas(64) Line {
    char bytes[64];
  };
  const auto ledger = std::make_shared<MemoryLedger>();
  const std::vector<Line, TrackedAllocator<Line, Category::kWorkspace>> lines(
      3, TrackedAllocator<Line, Category::kWorkspace>(ledger));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(lines.data()) % 64, 0u);
  EXPECT_EQ(ledger->snapshot().bytes_of(Category::kWorkspace), 192);
}

TEST(TrackedAllocatorTest, EntersNothingThatTheSystemRefuses) {
  const auto ledger = std::make_shared<MemoryLedger>();
  TrackedAllocator<double, Category::kKv> allocator(ledger);
  EXPECT_THROW(allocator.allocate(std::numeric_limits<size_t>::max() / 4),
               std::bad_array_new_length);
  testing::fail_allocation_of_this_thread(0);
  EXPECT_THROW(allocator.allocate(10), std::bad_alloc);
  EXPECT_EQ(ledger->snapshot().total_live, 0);
  EXPECT_EQ(ledger->snapshot().n_allocations, 0);
}

TEST(TrackedAllocatorTest, WorksWithoutALedger) {
  KvVector<int> values(1000, 7);
  EXPECT_EQ(values[999], 7);
}

TEST(MemoryChargeTest, IsEnteredWhileItLives) {
  const auto ledger = std::make_shared<MemoryLedger>();
  {
    MemoryCharge charge(ledger, Category::kWeights, 500);
    MemoryCharge moved = std::move(charge);
    EXPECT_EQ(ledger->snapshot().bytes_of(Category::kWeights), 500);
    moved = MemoryCharge(ledger, Category::kKv, 20);
    EXPECT_EQ(ledger->snapshot().bytes_of(Category::kWeights), 0);
    EXPECT_EQ(ledger->snapshot().bytes_of(Category::kKv), 20);
  }
  EXPECT_EQ(ledger->snapshot().total_live, 0);
  const MemoryCharge nothing;
}

}  // namespace
}  // namespace smallmind
