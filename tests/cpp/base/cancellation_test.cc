#include "smallmind/cancellation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "smallmind/error.h"

namespace smallmind {
namespace {

using std::chrono::milliseconds;

ErrorKind checked_kind(const CancellationToken& token) {
  try {
    token.check();
  } catch (const Error& error) {
    return error.kind();
  }
  return ErrorKind::kInference;
}

// B18, B19, B26: the two causes are told apart, and the first one stays.
TEST(CancellationTest, FirstCauseWins) {
  CancellationToken token;
  EXPECT_FALSE(token.cancelled());
  EXPECT_EQ(token.deadline(), std::nullopt);
  token.cancel();
  token.cancel_after(0);
  EXPECT_EQ(token.reason(), CancelReason::kCaller);
  EXPECT_EQ(checked_kind(token), ErrorKind::kCancelled);

  CancellationToken timed = CancellationToken::with_timeout(0.01);
  EXPECT_EQ(timed.reason(), CancelReason::kNone);
  std::this_thread::sleep_for(milliseconds(20));
  timed.cancel();  // too late
  EXPECT_EQ(timed.reason(), CancelReason::kTimeout);
  EXPECT_EQ(checked_kind(timed), ErrorKind::kDeadline);
}

TEST(CancellationTest, CopiesAreTheSameToken) {
  CancellationToken token;
  const CancellationToken copy = token;
  token.cancel();
  EXPECT_TRUE(copy.cancelled());
}

TEST(CancellationTest, DeadlinesOnlyGetShorter) {
  CancellationToken token = CancellationToken::with_timeout(10);
  const auto first = token.deadline();
  token.cancel_after(100);
  EXPECT_EQ(token.deadline(), first);
  token.cancel_after(5);
  EXPECT_LT(*token.deadline(), *first);
  CancellationToken far = CancellationToken::with_timeout(1e300);  // no overflow
  EXPECT_FALSE(far.cancelled());
}

TEST(CancellationTest, RefusesTimesThatAreNone) {
  for (double bad : {-1.0, std::nan(""), static_cast<double>(INFINITY)}) {
    EXPECT_THROW(CancellationToken::with_timeout(bad), Error);
    EXPECT_THROW(CancellationToken().cancel_after(bad), Error);
  }
}

TEST(CancellationTest, LinkedTokensFollowTheirParentsOnly) {
  CancellationToken a;
  CancellationToken b = CancellationToken::with_timeout(60);
  const std::vector<CancellationToken> parents = {a, b};
  CancellationToken child = CancellationToken::linked(parents);
  CancellationToken grandchild = CancellationToken::linked(std::span(&child, 1));
  EXPECT_EQ(grandchild.deadline(), b.deadline());
  a.cancel_after(30);
  EXPECT_EQ(grandchild.deadline(), a.deadline());
  CancellationToken other = CancellationToken::linked(parents);
  other.cancel();
  EXPECT_FALSE(a.cancelled());
  EXPECT_FALSE(child.cancelled());
  b.cancel();
  EXPECT_EQ(grandchild.reason(), CancelReason::kCaller);
  // Linking to a token that has tripped trips at once.
  EXPECT_EQ(CancellationToken::linked(parents).reason(), CancelReason::kCaller);
}

TEST(CancellationTest, ListenersHearOfCancelOnceAndOfDeadlines) {
  CancellationToken parent;
  CancellationToken token = CancellationToken::linked(std::span(&parent, 1));
  int n_calls = 0;
  auto registration = token.on_change([&] { ++n_calls; });
  parent.cancel_after(50);
  EXPECT_EQ(n_calls, 1);
  parent.cancel();
  parent.cancel();
  token.cancel();
  EXPECT_EQ(n_calls, 2);
  int n_late = 0;
  auto late = token.on_change([&] { ++n_late; });
  EXPECT_EQ(n_late, 1);  // at once
  CancellationToken quiet;
  auto gone = quiet.on_change([&] { ++n_late; });
  gone.reset();
  quiet.cancel();
  EXPECT_EQ(n_late, 1);
}

TEST(CancellationTest, DroppingARegistrationWaitsForTheCallButNotInsideIt) {
  CancellationToken token;
  std::atomic<bool> has_begun{false};
  std::atomic<bool> has_ended{false};
  auto registration = token.on_change([&] {
    has_begun = true;
    std::this_thread::sleep_for(milliseconds(30));
    has_ended = true;
  });
  std::thread canceller([&] { token.cancel(); });
  while (!has_begun) std::this_thread::yield();
  registration.reset();
  EXPECT_TRUE(has_ended);
  canceller.join();

  CancellationToken other;
  std::shared_ptr<CancellationToken::Registration> own;
  own = other.on_change([&] { own.reset(); });
  other.cancel();
  EXPECT_EQ(own, nullptr);
}

// Registrations come and go while others cancel: each listener that lives to see it is called once.
TEST(CancellationTest, RegistrationRacesCallAtMostOnceAndNeverAfter) {
  for (int round = 0; round < 2000; ++round) {
    CancellationToken token;
    std::atomic<int> n_calls{0};
    std::atomic<bool> is_dropped{false};
    std::atomic<bool> was_called_late{false};
    std::thread canceller([&] {
      token.cancel_after(100);
      token.cancel();
    });
    std::thread linker([&] {
      CancellationToken child = CancellationToken::linked(std::span(&token, 1));
      const auto registration = child.on_change([&] { ++n_calls; });
      while (!child.cancelled()) std::this_thread::yield();
    });
    auto registration = token.on_change([&] {
      if (is_dropped) was_called_late = true;
    });
    registration.reset();
    is_dropped = true;
    canceller.join();
    linker.join();
    EXPECT_LE(n_calls, 2);  // the deadline and the cancel
    EXPECT_FALSE(was_called_late);
  }
}

}  // namespace
}  // namespace smallmind
