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

RequestView decode(uint64_t last_step = 1) {
  RequestView view;
  view.n_cached = 100;
  view.n_left = 1;
  view.last_step = last_step;
  return view;
}

RequestView prefill(int64_t n_left, uint64_t arrival = 0, double overtaken_seconds = 0) {
  RequestView view;
  view.n_left = n_left;
  view.arrival = arrival;
  view.overtaken_seconds = overtaken_seconds;
  return view;
}

// Request and tokens of each slice.
using Slices = std::vector<std::pair<size_t, int64_t>>;

Slices plan(const std::vector<RequestView>& views, const StepCost& cost,
            const std::vector<KeyView>& keys = {KeyView{}}) {
  StepPlan plan;
  plan_step(views, keys, cost, plan);
  Slices slices;
  for (const PlannedSlice& slice : plan.slices) slices.emplace_back(slice.request, slice.n_tokens);
  return slices;
}

TEST(SchedulerTest, PlansNothingWhenNothingCanRun) {
  EXPECT_TRUE(plan({}, kCheap).empty());
  RequestView paused = decode();
  paused.is_runnable = false;
  EXPECT_TRUE(plan({paused}, kCheap).empty());
}

TEST(SchedulerTest, DecodesFirstThenTheShortestPrefill) {
  const Slices expected = {{1, 1}, {3, 1}, {2, 40}, {0, 128}};
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
  const Slices expected = {{1, 112}};
  EXPECT_EQ(plan({prefill(900), prefill(800)}, kDear), expected);
}

TEST(SchedulerTest, AStreamShortensTheStepsOfPrompts) {
  const Slices expected = {{2, 1}, {1, 32}};
  EXPECT_EQ(plan({prefill(900), prefill(800), decode()}, kDear), expected);
}

TEST(SchedulerTest, StreamsThatTakeLongLeavePromptsThreeTimesAsLong) {
  StepCost cost = kDear;
  cost.choosing_seconds = 0.002;  // 16 streams: 10 ms in all, prompts 30 ms
  std::vector<RequestView> views(16, decode());
  views.push_back(prefill(900));
  EXPECT_EQ(plan(views, cost).back(), (Slices::value_type{16, 48}));
  cost.choosing_seconds = 0.030;  // no step is planned above 60 ms: 22 ms
  EXPECT_EQ(plan(views, cost).back(), (Slices::value_type{16, 32}));
  cost.choosing_seconds = 0.100;  // nothing is left, and a prompt goes on all the same
  EXPECT_EQ(plan(views, cost).back(), (Slices::value_type{16, 16}));
}

TEST(SchedulerTest, WhoeverWasOvertakenTooLongGoesFirst) {
  const auto first = [](const std::vector<RequestView>& views) { return plan(views, kDear)[0]; };
  EXPECT_EQ(first({prefill(4000, 1, 1.9), prefill(20, 2)}), (Slices::value_type{1, 20}));
  EXPECT_EQ(first({prefill(4000, 1, 2.1), prefill(20, 2)}), (Slices::value_type{0, 112}));
  // Among the late ones, first come, first served.
  EXPECT_EQ(first({prefill(20, 2, 2.5), prefill(4000, 1, 2.1)}), (Slices::value_type{1, 112}));
}

TEST(SchedulerTest, AWaitingRequestLendsItsPlaceToTheOneItWaitsFor) {
  std::vector<RequestView> views = {prefill(500, 1), prefill(2000, 2), prefill(40, 3)};
  views[2].blocked_by = 1;  // it needs a block that request 1 is about to compute
  const Slices expected = {{1, 112}};
  EXPECT_EQ(plan(views, kDear), expected);
}

TEST(SchedulerTest, TheKeyThatUsedLeastGoesFirst) {
  std::vector<RequestView> views = {prefill(20, 1), prefill(400, 2)};
  views[1].key = 1;
  EXPECT_EQ(plan(views, kDear, {{5.0}, {1.0}})[0].first, 1u);
  EXPECT_EQ(plan(views, kDear, {{1.0}, {5.0}})[0].first, 0u);
  // A flood does not become urgent by waiting.
  views[0].overtaken_seconds = 100;
  EXPECT_EQ(plan(views, kDear, {{5.0}, {1.0}})[0].first, 1u);
}

// L-05: a key that floods the engine gets its share of a batch, no more, once another key is there.
TEST(SchedulerTest, AKeyDecodesInItsShareOfTheBatch) {
  std::vector<RequestView> views(100, decode());
  EXPECT_EQ(plan(views, kCheap, {{0}, {0}}).size(), 64u);
  for (int i = 0; i < 3; ++i) {
    views.push_back(decode(50));
    views.back().key = 1;
  }
  const Slices slices = plan(views, kCheap, {{0}, {0}});
  EXPECT_EQ(slices.size(), 32u + 3u);
}

TEST(SchedulerTest, AdmitsByUseThenByArrival) {
  std::vector<WaitingView> waiting = {{7, 0}, {3, 0}, {9, 1}};
  EXPECT_EQ(next_admission(waiting, std::vector<KeyView>{{1.0}, {2.0}}), 1);
  EXPECT_EQ(next_admission(waiting, std::vector<KeyView>{{2.0}, {1.0}}), 2);
  waiting[2].may_run = false;
  EXPECT_EQ(next_admission(waiting, std::vector<KeyView>{{2.0}, {1.0}}), 1);
  EXPECT_EQ(next_admission({}, {}), -1);
}

TEST(SchedulerTest, AFullEngineStillHasPlacesForAQuietKey) {
  EXPECT_TRUE(may_run(63, 63, 1));
  EXPECT_FALSE(may_run(64, 64, 1));
  EXPECT_FALSE(may_run(64, 64, 2));
  EXPECT_TRUE(may_run(64, 31, 2));
  EXPECT_FALSE(may_run(95, 32, 2));
}

TEST(SchedulerTest, ACrowdOfDecodersTakesTurnsAndLeavesAPlaceForPrefill) {
  std::vector<RequestView> views;
  for (uint64_t i = 0; i < 100; ++i) views.push_back(decode(1000 - i));
  views.push_back(prefill(500));
  const auto slices = plan(views, kCheap);
  ASSERT_EQ(slices.size(), static_cast<size_t>(kMaxBatchSequences));
  EXPECT_EQ(slices.front().first, 99u);  // served longest ago
  EXPECT_EQ(slices.back().first, 100u);
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
      for (const auto& [request, n] : slices) {
        RequestView& view = views.at(request);
        ASSERT_FALSE(is_planned[request]);
        is_planned[request] = true;
        ASSERT_GE(n, 1);
        ASSERT_LE(n, std::min<int64_t>(128, view.n_left));
        n_tokens += n;
        view.n_cached += n;
        view.n_left -= n;
        view.last_step = step;
        if (view.n_left == 0 && n_decodes[request]-- > 0) view.n_left = 1;
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

TEST(CostModelTest, LearnsWhatChoosingTakes) {
  CostModel model;
  for (int i = 0; i < 60; ++i) model.observe_choosing(0.004);
  EXPECT_NEAR(model.cost().choosing_seconds, 0.004, 1e-4);
  model.observe_choosing(10);  // the machine slept
  EXPECT_LT(model.cost().choosing_seconds, 0.015);
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
