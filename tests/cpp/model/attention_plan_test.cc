// The plan of a step's attention: every query's every piece exactly once, no item much dearer than
// the others, nothing cut that fits.
#include "model/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/kernels.h"

namespace smallmind {
namespace {

struct Slice {
  int64_t first_position;
  size_t n_tokens;
};

class AttentionPlanTest : public testing::Test {
 protected:
  void make(const std::vector<Slice>& slices) {
    std::vector<SequenceSlice> batch;
    positions_.clear();
    for (const Slice& slice : slices) {
      batch.push_back({std::span(ids_).first(slice.n_tokens), slice.first_position, {}, {}});
      for (size_t i = 0; i < slice.n_tokens; ++i)
        positions_.push_back(slice.first_position + static_cast<int64_t>(i));
    }
    plan_.make(batch, shape_);
  }

  // Each token's pieces are covered once; items of several tokens stay within one run of positions.
  void expect_complete() const {
    std::vector<std::vector<int>> seen;
    for (const int64_t position : positions_)
      seen.emplace_back(static_cast<size_t>(n_pieces(position)), 0);
    for (const AttentionItem& item : plan_.items()) {
      for (size_t t = item.first_token; t < item.first_token + item.n_tokens; ++t) {
        ASSERT_EQ(positions_[t],
                  positions_[item.first_token] + static_cast<int64_t>(t - item.first_token));
        const int64_t first = shape_.first_key(positions_[t]) / 64;
        const int64_t begin = item.in_parts ? item.first_piece - first : 0;
        const int64_t end = item.in_parts ? begin + item.n_pieces : n_pieces(positions_[t]);
        for (int64_t piece = begin; piece < end; ++piece) ++seen[t].at(static_cast<size_t>(piece));
      }
      EXPECT_EQ(item.in_parts, plan_.parts(item.first_token).n_parts > 0);
    }
    for (const auto& pieces : seen)
      for (const int n : pieces) ASSERT_EQ(n, 1);
    size_t n_shared = 0;
    const auto n_workers = static_cast<size_t>(shape_.n_threads);
    for (size_t worker = 0; worker < n_workers; ++worker) {
      for (const AttentionItem& item : plan_.items_of(worker)) {
        EXPECT_GE(item.first_token, positions_.size() * worker / n_workers);
        EXPECT_LT(item.first_token, positions_.size() * (worker + 1) / n_workers);
        ++n_shared;
      }
    }
    EXPECT_EQ(n_shared, plan_.items().size());
  }
  int64_t n_pieces(int64_t position) const {
    return position / 64 - shape_.first_key(position) / 64 + 1;
  }
  size_t n_items_in_parts() const {
    return static_cast<size_t>(std::ranges::count_if(
        plan_.items(), [](const AttentionItem& item) { return item.in_parts; }));
  }

  AttentionShape shape_{3, 3, 0, 2, 100'000};
  std::vector<int32_t> ids_ = std::vector<int32_t>(256);
  std::vector<int64_t> positions_;
  AttentionPlan plan_{256, 64};
};

TEST_F(AttentionPlanTest, CoversEveryPieceOnce) {
  std::mt19937 rng(1);
  for (int round = 0; round < 2'000; ++round) {
    shape_ = {1 + rng() % 9, 1 + rng() % 4, rng() % 3 == 0 ? 100 : 0,
              static_cast<int>(1 + rng() % 64), rng() % 5'000};
    std::vector<Slice> slices;
    for (size_t left = 256; left > 0 && slices.size() < 1 + rng() % 64;) {
      const size_t n = rng() % 2 == 0 ? 1 : 1 + rng() % std::min<size_t>(left, 128);
      slices.push_back({static_cast<int64_t>(rng() % 9'000), n});
      left -= n;
    }
    make(slices);
    expect_complete();
    if (HasFatalFailure()) return;
  }
}

TEST_F(AttentionPlanTest, CutsALoneLongContextForAllThreads) {
  for (const size_t n_kv_heads : {1, 3}) {
    shape_.n_kv_heads = n_kv_heads;
    make({{4'000, 1}});
    expect_complete();
    EXPECT_GE(plan_.items().size() * n_kv_heads, 6u);
    EXPECT_EQ(n_items_in_parts(), plan_.items().size());
  }
}

TEST_F(AttentionPlanTest, CutsOneLongContextAmongShortOnes) {
  shape_.n_kv_heads = 1;
  std::vector<Slice> slices(16, {100, 1});
  slices[5].first_position = 6'000;
  make(slices);
  expect_complete();
  EXPECT_GE(n_items_in_parts(), 3u);
  EXPECT_EQ(plan_.items().size() - n_items_in_parts(), 15u);
  EXPECT_EQ(plan_.items().front().first_token, 5u);
}

TEST_F(AttentionPlanTest, LeavesWholeWhatOneThreadOrManyAlikeHave) {
  make(std::vector<Slice>(16, {4'000, 1}));
  EXPECT_EQ(plan_.items().size(), 16u);
  EXPECT_EQ(n_items_in_parts(), 0u);
  shape_.n_threads = 1;
  make({{4'000, 1}});
  EXPECT_EQ(n_items_in_parts(), 0u);
  make({{6'000, 16}});
  EXPECT_EQ(plan_.items().size(), 2u);  // 30 of 32 queries at most
}

TEST_F(AttentionPlanTest, LeavesWholeWhatHasNoRoomForParts) {
  shape_.max_parts = 9 * 63 - 1;
  make({{4'000, 1}});
  EXPECT_EQ(n_items_in_parts(), 0u);
  expect_complete();
  shape_.max_parts = 9 * 63;
  make({{4'000, 1}});
  EXPECT_GT(n_items_in_parts(), 0u);
}

TEST_F(AttentionPlanTest, LooksOnlyAtTheWindow) {
  shape_.window = 512;
  make({{6'000, 1}});
  expect_complete();
  EXPECT_LE(plan_.parts(0).n_parts, 9u);
  EXPECT_GT(plan_.parts(0).n_parts, 0u);
}

}  // namespace
}  // namespace smallmind
