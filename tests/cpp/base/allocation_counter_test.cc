#include "allocation_counter.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "base/gang.h"

namespace smallmind {
namespace {

using testing::fail_allocation_of_compute_threads;
using testing::fail_allocation_of_this_thread;
using testing::n_allocations_of_compute_threads;
using testing::n_allocations_of_this_thread;

struct alignas(64) Line {
  char bytes[64];
};

// What is stored here was really allocated: a compiler may leave out a new and delete that it sees
// whole.
std::atomic<const void*> seen;

void allocate() {
  const auto line = std::make_unique<Line>();
  seen = line.get();
}

TEST(AllocationCounterTest, CountsEveryFormOfNewOnItsThread) {
  const int64_t before = n_allocations_of_this_thread();
  const auto one = std::make_unique<int>(1);
  const auto many = std::make_unique<int[]>(10);
  const auto aligned = std::make_unique<Line>();
  for (const void* memory : {static_cast<void*>(one.get()), static_cast<void*>(many.get()),
                             static_cast<void*>(aligned.get())})
    seen = memory;
  EXPECT_EQ(n_allocations_of_this_thread(), before + 3);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned.get()) % 64, 0u);
  const int64_t now = n_allocations_of_this_thread();
  std::thread other([] {
    const int64_t own = n_allocations_of_this_thread();
    allocate();
    EXPECT_EQ(n_allocations_of_this_thread(), own + 1);
  });
  other.join();
  EXPECT_LE(n_allocations_of_this_thread(), now + 2);  // the thread's own start, at most
}

// Two items that wait for each other cannot be run by one worker.
void on_both_workers(Gang& gang, const std::atomic<bool>& helper_allocates) {
  std::atomic<int> n_there{0};
  gang.for_each(2, [&](size_t, int worker) {
    ++n_there;
    while (n_there < 2) std::this_thread::yield();
    if (worker == 1 && helper_allocates) allocate();
  });
}

TEST(AllocationCounterTest, CountsComputeThreadsByName) {
  Gang gang(2);  // the caller is worker 0 and is not named
  std::atomic<bool> helper_allocates{false};
  on_both_workers(gang, helper_allocates);
  const int64_t before = n_allocations_of_compute_threads();
  for (int i = 0; i < 1000; ++i) on_both_workers(gang, helper_allocates);
  EXPECT_EQ(n_allocations_of_compute_threads(), before);
  helper_allocates = true;
  on_both_workers(gang, helper_allocates);
  EXPECT_EQ(n_allocations_of_compute_threads(), before + 1);
}

TEST(AllocationCounterTest, RefusesTheOneThatWasOrdered) {
  fail_allocation_of_this_thread(1);
  allocate();
  EXPECT_THROW(allocate(), std::bad_alloc);
  allocate();
  fail_allocation_of_this_thread(0);
  fail_allocation_of_this_thread(-1);
  allocate();

  Gang gang(2);
  const std::atomic<bool> helper_allocates{true};
  fail_allocation_of_compute_threads(2);
  on_both_workers(gang, helper_allocates);
  on_both_workers(gang, helper_allocates);
  EXPECT_THROW(on_both_workers(gang, helper_allocates), std::bad_alloc);
  on_both_workers(gang, helper_allocates);
}

}  // namespace
}  // namespace smallmind
