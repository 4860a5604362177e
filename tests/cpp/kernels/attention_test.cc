// Attention against double arithmetic, bit for bit between instruction sets and groupings of
// queries, and blind to keys out of range.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "isa_list.h"

namespace smallmind {
namespace {

class AttentionTest : public testing::Test {
 protected:
  void fill(size_t head_dim, size_t n_keys, bool poison) {
    head_dim_ = head_dim;
    const size_t n_pages = (n_keys + 31) / 32, region = 32 * head_dim * 2;
    // Fresh pages hold NaN: only written keys may be read.
    storage_.assign(n_pages, std::vector<uint16_t>(region, 0x7fc0));
    pages_.clear();
    for (auto& page : storage_) pages_.push_back(reinterpret_cast<std::byte*>(page.data()));
    std::mt19937 rng(static_cast<unsigned>(head_dim + n_keys));
    std::normal_distribution<float> draw;
    keys_.assign(n_keys, std::vector<float>(head_dim)), values_ = keys_;
    queries_.assign(kMaxTileQueries, std::vector<float>(head_dim));
    for (auto* set : {&keys_, &values_, &queries_})
      for (auto& row : *set) {
        for (auto& x : row) x = draw(rng);
        kernels().round_bf16(row.data(), row.size());
      }
    if (poison) keys_.back()[0] = values_.back()[0] = std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 0; i < n_keys; ++i)
      kernels().store_kv(keys_[i].data(), values_[i].data(), head_dim, i % 32, i + 1 == n_keys,
                         pages_[i / 32], pages_[i / 32] + region);
  }

  std::vector<std::vector<float>> run(const Kernels& isa,
                                      std::vector<std::pair<int64_t, int64_t>> ranges) {
    std::vector<std::vector<float>> out(ranges.size(), std::vector<float>(head_dim_));
    AttentionTile tile;
    tile.n_queries = ranges.size();
    for (size_t q = 0; q < ranges.size(); ++q) {
      tile.queries[q] = queries_[q].data();
      tile.begin[q] = ranges[q].first;
      tile.end[q] = ranges[q].second;
      tile.out[q] = out[q].data();
    }
    tile.pages = pages_.data();
    tile.v_offset = 32 * head_dim_ * 2;
    tile.head_dim = head_dim_;
    tile.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    isa.attention(tile);
    return out;
  }

  std::vector<double> expected(size_t query, int64_t begin, int64_t end) const {
    std::vector<double> score, out(head_dim_);
    double best = -1e300, total = 0;
    for (int64_t k = begin; k < end; ++k) {
      double dot = 0;
      for (size_t i = 0; i < head_dim_; ++i)
        dot += static_cast<double>(queries_[query][i]) * keys_[static_cast<size_t>(k)][i];
      score.push_back(dot / std::sqrt(static_cast<double>(head_dim_)));
      best = std::max(best, score.back());
    }
    for (auto& s : score) total += s = std::exp(s - best);
    for (int64_t k = begin; k < end; ++k)
      for (size_t i = 0; i < head_dim_; ++i)
        out[i] +=
            score[static_cast<size_t>(k - begin)] / total * values_[static_cast<size_t>(k)][i];
    return out;
  }

  size_t head_dim_ = 0;
  std::vector<std::vector<float>> keys_, values_, queries_;
  std::vector<std::vector<uint16_t>> storage_;
  std::vector<std::byte*> pages_;
};

TEST_F(AttentionTest, AgreesWithDoubleArithmetic) {
  for (const size_t head_dim : {16, 64, 80, 256}) {
    for (const size_t n : {1, 2, 31, 33, 64, 65, 200, 333}) {
      fill(head_dim, n, false);
      const auto end = static_cast<int64_t>(n);
      for (const int64_t begin : {int64_t{0}, end / 2, end - 1}) {
        const auto out = run(kernels(), {{begin, end}});
        const auto want = expected(0, begin, end);
        for (size_t i = 0; i < head_dim; ++i)
          ASSERT_NEAR(out[0][i], want[i], 0.01) << head_dim << " " << n << " " << begin;
      }
    }
  }
}

TEST_F(AttentionTest, GivesTheSameBitsOnEveryIsaAndInEveryGroup) {
  fill(64, 203, false);
  const std::vector<std::pair<int64_t, int64_t>> ranges = {{0, 203}, {70, 131}, {65, 130}, {3, 4}};
  std::vector<std::vector<float>> first;
  for (const Kernels* isa : available_kernels()) {
    const auto together = run(*isa, ranges);
    if (first.empty()) first = together;
    for (size_t q = 0; q < ranges.size(); ++q)
      for (size_t i = 0; i < 64; ++i)
        ASSERT_EQ(std::bit_cast<uint32_t>(first[q][i]), std::bit_cast<uint32_t>(together[q][i]))
            << isa->name << " query " << q;
    const auto alone = run(*isa, {ranges[0]});
    for (size_t i = 0; i < 64; ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(first[0][i]), std::bit_cast<uint32_t>(alone[0][i]))
          << isa->name;
    const auto pair = run(*isa, {ranges[0], ranges[1]});
    for (size_t i = 0; i < 64; ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(first[1][i]), std::bit_cast<uint32_t>(pair[1][i]))
          << isa->name;
  }
}

// A masked key is not multiplied by 0: a NaN there changes nothing, for a query beside one that
// sees it too.
TEST_F(AttentionTest, NeverReadsAKeyOutOfRange) {
  fill(64, 100, false);
  for (const Kernels* isa : available_kernels()) {
    fill(64, 100, false);
    const auto clean = run(*isa, {{0, 99}, {0, 100}});
    fill(64, 100, true);
    const auto beside = run(*isa, {{0, 99}, {0, 100}});
    for (size_t i = 0; i < 64; ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(clean[0][i]), std::bit_cast<uint32_t>(beside[0][i]))
          << isa->name << " " << i;
    EXPECT_TRUE(std::isnan(beside[1][0])) << isa->name;
  }
}

}  // namespace
}  // namespace smallmind
