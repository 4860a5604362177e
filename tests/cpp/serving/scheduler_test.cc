#include "serving/scheduler.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "model/model.h"
#include "serving/cost_model.h"

namespace smallmind {
namespace {

constexpr StepCost kCheap{1e-6, 0};      // 128 tokens far below 20 ms
constexpr StepCost kDear{0.0005, 1e-7};  // 40 tokens at no context

RequestView decode(uint64_t last_step = 1) { return {100, 1, true, last_step, 0}; }
RequestView prefill(int64_t n_left, double waiting_seconds = 0) {
  return {0, n_left, true, 0, waiting_seconds};
}
std::vector<PlannedSlice> plan(const std::vector<RequestView>& views, const StepCost& cost) {
  return plan_step(views, cost).slices;
}

TEST(SchedulerTest, PlansNothingWhenNothingCanRun) {
  EXPECT_TRUE(plan({}, kCheap).empty());
  RequestView paused = decode();
  paused.is_runnable = false;
  EXPECT_TRUE(plan({paused}, kCheap).empty());
}

TEST(SchedulerTest, DecodesFirstThenTheShortestPrefill) {
  const std::vector<PlannedSlice> expected = {{1, 1}, {3, 1}, {2, 40}, {0, 128}};
  EXPECT_EQ(plan({prefill(1000), decode(), prefill(40), decode(2)}, kCheap), expected);
}

TEST(SchedulerTest, ChunksFollowThePredictedTime) {
  EXPECT_EQ(chunk_tokens(0, 1000, 0.020, kCheap), 128);
  EXPECT_EQ(chunk_tokens(0, 1000, 0.020, kDear), 32);
  EXPECT_EQ(chunk_tokens(100'000, 1000, 0.020, kDear), 16);  // never less, however dear
  EXPECT_EQ(chunk_tokens(0, 7, 0.020, kDear), 7);
  for (int64_t n_cached = 0; n_cached < 5000; n_cached += 100) {
    const int64_t n = chunk_tokens(n_cached, 1000, 0.020, kDear);
    EXPECT_EQ(n % 16, 0);
  }
}

TEST(SchedulerTest, OnePrefillIsEnoughWhenTimeIsShort) {
  const std::vector<PlannedSlice> expected = {{1, 32}};
  EXPECT_EQ(plan({prefill(900), prefill(800)}, kDear), expected);
}

TEST(SchedulerTest, WhoeverWaitedTooLongGoesFirst) {
  EXPECT_EQ(plan({prefill(4000, 2.5), prefill(20, 0.1)}, kDear).front(), (PlannedSlice{0, 32}));
  EXPECT_EQ(plan({prefill(4000, 2.5), prefill(20, 3.0)}, kDear).front(), (PlannedSlice{1, 20}));
}

TEST(SchedulerTest, ACrowdOfDecodersTakesTurnsAndLeavesAPlaceForPrefill) {
  std::vector<RequestView> views;
  for (uint64_t i = 0; i < 100; ++i) views.push_back(decode(1000 - i));
  views.push_back(prefill(500));
  const auto slices = plan(views, kCheap);
  ASSERT_EQ(slices.size(), static_cast<size_t>(kMaxBatchSequences));
  EXPECT_EQ(slices.front().request, 99u);  // served longest ago
  EXPECT_EQ(slices.back().request, 100u);
}

// Simulated traffic: every plan keeps the limits and every request is done in the end.
TEST(SchedulerTest, SimulatedTrafficKeepsLimitsAndFinishes) {
  std::mt19937 random(3);
  for (int round = 0; round < 100; ++round) {
    const StepCost cost{1e-6 * (1 + random() % 1000), 1e-9 * (random() % 1000)};
    std::vector<RequestView> views(1 + random() % 90);
    std::vector<int> n_decodes(views.size());
    for (size_t i = 0; i < views.size(); ++i) {
      views[i] = prefill(1 + random() % 600);
      n_decodes[i] = static_cast<int>(random() % 20);
    }
    uint64_t step = 0;
    for (;;) {
      const auto slices = plan(views, cost);
      if (slices.empty()) break;
      ASSERT_LT(++step, 100'000u);
      int64_t n_tokens = 0;
      std::vector<bool> is_planned(views.size());
      for (const PlannedSlice& slice : slices) {
        RequestView& view = views.at(slice.request);
        ASSERT_FALSE(is_planned[slice.request]);
        is_planned[slice.request] = true;
        ASSERT_GE(slice.n_tokens, 1);
        ASSERT_LE(slice.n_tokens, std::min<int64_t>(128, view.n_left));
        n_tokens += slice.n_tokens;
        view.n_cached += slice.n_tokens;
        view.n_left -= slice.n_tokens;
        view.last_step = step;
        if (view.n_left == 0 && n_decodes[slice.request]-- > 0) view.n_left = 1;
      }
      ASSERT_LE(n_tokens, kMaxBatchTokens);
      ASSERT_LE(slices.size(), static_cast<size_t>(kMaxBatchSequences));
    }
    for (const RequestView& view : views) ASSERT_EQ(view.n_left, 0);
  }
}

TEST(CostModelTest, LearnsBothCosts) {
  CostModel model;
  for (int i = 0; i < 60; ++i) {
    const int64_t n = 16 + 16 * (i % 7);
    const double contexts = static_cast<double>(n) * (100.0 * (i % 11));
    model.observe(n, contexts, 3e-4 * static_cast<double>(n) + 2e-7 * contexts);
  }
  EXPECT_NEAR(model.cost().per_token, 3e-4, 1e-6);
  EXPECT_NEAR(model.cost().per_context, 2e-7, 1e-9);
}

TEST(CostModelTest, StaysPositiveOnAnyTimes) {
  std::mt19937 random(5);
  CostModel model;
  for (int i = 0; i < 10'000; ++i) {
    model.observe(static_cast<int64_t>(random() % 256), static_cast<double>(random() % 100'000),
                  1e-6 * static_cast<double>(random() % 1'000'000));
    ASSERT_GT(model.cost().per_token, 0);
    ASSERT_GE(model.cost().per_context, 0);
    ASSERT_LT(model.cost().per_token, 10);
  }
}

}  // namespace
}  // namespace smallmind
