// The order of locks is checked where builds pay for it; an inversion on purpose is caught (D21,
// P-06).
#include "base/lock_order.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/mutex.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

template <class Call>
std::string violation(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() + " " + error.what();
  }
  return "none";
}

TEST(LockOrderTest, RanksAscendAndLeavesHoldNothing) {
  LockOrder::enter(LockRank::kSession);
  LockOrder::enter(LockRank::kListener);
  LockOrder::enter(LockRank::kLeaf);
  EXPECT_EQ(LockOrder::n_held(), 3u);
  EXPECT_EQ(violation([] { LockOrder::enter(LockRank::kLeaf); }),
            "LOCK_ORDER locks: a leaf is taken under a leaf");
  LockOrder::leave();
  EXPECT_EQ(violation([] { LockOrder::enter(LockRank::kSession); }),
            "LOCK_ORDER locks: a session's lock is taken under a listener's lock");
  EXPECT_EQ(LockOrder::n_held(), 2u);  // what was refused is not held
  LockOrder::leave();
  LockOrder::leave();
}

TEST(LockOrderTest, ThreadsWaitWithOneLockOnly) {
  LockOrder::enter(LockRank::kSession);
  EXPECT_EQ(violation([] { LockOrder::check_wait(); }), "none");
  LockOrder::enter(LockRank::kLeaf);
  EXPECT_EQ(violation([] { LockOrder::check_wait(); }),
            "LOCK_ORDER locks: a thread waits with 2 of them");
  EXPECT_EQ(violation([] { LockOrder::check_listener_drop(); }),
            "LOCK_ORDER locks: a listener is taken back under a leaf");
  LockOrder::leave();
  EXPECT_EQ(violation([] { LockOrder::check_listener_drop(); }), "none");
  LockOrder::leave();
}

TEST(LockOrderTest, EveryThreadHasItsOwn) {
  LockOrder::enter(LockRank::kLeaf);
  std::thread([] { EXPECT_EQ(LockOrder::n_held(), 0u); }).join();
  LockOrder::leave();
}

// What a build does with real locks: the inversion throws, or costs nothing, not even a byte.
TEST(LockOrderTest, AMutexIsCheckedOrFree) {
  Mutex session(LockRank::kSession);
  Mutex leaf;
  const auto invert = [&] {
    const MutexLock first(leaf);
    const MutexLock second(session);
  };
  if (kChecksLockOrder) {
    EXPECT_EQ(violation(invert), "LOCK_ORDER locks: a session's lock is taken under a leaf");
  } else {
    EXPECT_EQ(violation(invert), "none");
    EXPECT_EQ(sizeof(Mutex), sizeof(std::mutex));
  }
  EXPECT_EQ(LockOrder::n_held(), 0u);
  const MutexLock again(leaf);  // the refused inversion has let go of it
}

}  // namespace
}  // namespace smallmind
