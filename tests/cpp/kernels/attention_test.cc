// Attention against double arithmetic, bit for bit between instruction sets, groupings of queries
// and parts, and blind to keys out of range.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "isa_list.h"

namespace smallmind {
namespace {

using Range = std::pair<int64_t, int64_t>;
using Rows = std::vector<std::vector<float>>;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float to_bf16(float x) {
  kernels().round_bf16(&x, 1);
  return x;
}

// What a cache of eight-bit codes gives back for a row, from the formula alone.
std::vector<float> through_q8(const std::vector<float>& row) {
  std::vector<float> out(row.size());
  for (size_t block = 0; block < row.size(); block += 32) {
    float amax = 0;
    for (size_t i = block; i < block + 32; ++i) amax = std::max(amax, std::fabs(row[i]));
    const float d = to_bf16(amax / 127.0f);
    const float inverse = d > 0 ? 1.0f / d : 0.0f;
    for (size_t i = block; i < block + 32; ++i)
      out[i] = to_bf16(d * std::nearbyint(row[i] * inverse));
  }
  return out;
}

// A sequence's keys and values in pages that held NaN before, behind one other head's.
class AttentionTest : public testing::TestWithParam<KvFormat> {
 protected:
  size_t region() const { return kv_region_bytes(GetParam(), head_dim_); }

  void fill(size_t head_dim, size_t n_keys, const std::function<float()>& draw) {
    head_dim_ = head_dim;
    keys_.assign(n_keys, std::vector<float>(head_dim)), values_ = keys_;
    queries_.assign(kMaxTileQueries, std::vector<float>(head_dim));
    for (auto* set : {&keys_, &values_, &queries_})
      for (auto& row : *set)
        for (auto& x : row) x = draw();
    for (auto& row : queries_) kernels().round_bf16(row.data(), row.size());
    write(kernels());
  }
  void fill(size_t head_dim, size_t n_keys) {
    std::mt19937 rng(static_cast<unsigned>(head_dim + n_keys));
    std::normal_distribution<float> normal;
    fill(head_dim, n_keys, [&] { return normal(rng); });
  }
  void write(const Kernels& isa) {
    const size_t n_pages = (keys_.size() + kPageKeys - 1) / kPageKeys;
    storage_.assign(n_pages, std::vector<std::byte>(4 * region() + 64, std::byte{0xff}));
    pages_.clear();
    for (auto& page : storage_) {
      const auto at = reinterpret_cast<uintptr_t>(page.data());
      pages_.push_back(page.data() + (64 - at % 64) % 64);
    }
    for (size_t i = 0; i < keys_.size(); ++i) {
      std::byte* const keys = pages_[i / kPageKeys] + 2 * region();
      isa.store_kv(GetParam(), keys_[i].data(), values_[i].data(), head_dim_, i % kPageKeys,
                   i + 1 == keys_.size(), keys, keys + region());
    }
  }

  AttentionTile tile(const std::vector<Range>& ranges, size_t first_query, Rows& out) const {
    AttentionTile tile;
    tile.n_queries = ranges.size();
    for (size_t q = 0; q < ranges.size(); ++q) {
      tile.queries[q] = queries_[first_query + q].data();
      tile.begin[q] = ranges[q].first;
      tile.end[q] = ranges[q].second;
      tile.out[q] = out[q].data();
    }
    tile.format = GetParam();
    tile.pages = pages_.data();
    tile.k_offset = 2 * region();
    tile.v_offset = 3 * region();
    tile.head_dim = head_dim_;
    tile.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    tile.softcap = softcap_;
    return tile;
  }
  Rows run(const Kernels& isa, const std::vector<Range>& ranges, size_t first_query = 0) const {
    Rows out(ranges.size(), std::vector<float>(head_dim_));
    isa.attention(tile(ranges, first_query, out));
    return out;
  }

  std::vector<double> expected(size_t query, Range range) const {
    std::vector<double> score, out(head_dim_);
    double best = -1e300, total = 0;
    const auto stored = [&](const std::vector<float>& row) {
      return GetParam() == KvFormat::kQ8_0 ? through_q8(row) : row;
    };
    for (int64_t k = range.first; k < range.second; ++k) {
      const auto key = stored(keys_[static_cast<size_t>(k)]);
      double dot = 0;
      for (size_t i = 0; i < head_dim_; ++i)
        dot += static_cast<double>(queries_[query][i]) * key[i];
      dot /= std::sqrt(static_cast<double>(head_dim_));
      if (softcap_ > 0) dot = softcap_ * std::tanh(dot / softcap_);
      score.push_back(dot);
      best = std::max(best, dot);
    }
    for (auto& s : score) total += s = std::exp(s - best);
    for (int64_t k = range.first; k < range.second; ++k) {
      const auto value = stored(values_[static_cast<size_t>(k)]);
      for (size_t i = 0; i < head_dim_; ++i)
        out[i] += score[static_cast<size_t>(k - range.first)] / total * value[i];
    }
    return out;
  }

  size_t head_dim_ = 0;
  float softcap_ = 0;
  Rows keys_, values_, queries_;
  std::vector<std::vector<std::byte>> storage_;
  std::vector<std::byte*> pages_;
};

INSTANTIATE_TEST_SUITE_P(Formats, AttentionTest, testing::Values(KvFormat::kBf16, KvFormat::kQ8_0),
                         [](const auto& format) {
                           return format.param == KvFormat::kBf16 ? "Bf16" : "Q8";
                         });

void expect_same_bits(const Rows& want, const Rows& got, const std::string& what) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t q = 0; q < want.size(); ++q)
    for (size_t i = 0; i < want[q].size(); ++i)
      ASSERT_TRUE(std::bit_cast<uint32_t>(want[q][i]) == std::bit_cast<uint32_t>(got[q][i]) ||
                  (std::isnan(want[q][i]) && std::isnan(got[q][i])))
          << what << " query " << q << " element " << i << ": " << want[q][i] << " " << got[q][i];
}

// A causal run of queries in groups of three, or ranges of any kind.
std::vector<Range> causal(size_t n, int64_t end, int64_t window) {
  std::vector<Range> ranges;
  for (size_t q = 0; q < n; ++q) {
    const int64_t last = end - static_cast<int64_t>((n - 1 - q) / 3);
    ranges.push_back({window > 0 && last > window ? last - window : 0, last});
  }
  return ranges;
}

std::vector<Range> any_ranges(size_t n, int64_t end, std::mt19937& rng) {
  std::vector<Range> ranges;
  for (size_t q = 0; q < n; ++q) {
    const auto last = static_cast<int64_t>(1 + rng() % static_cast<uint64_t>(end));
    ranges.push_back({static_cast<int64_t>(rng() % static_cast<uint64_t>(last)), last});
  }
  return ranges;
}

TEST_P(AttentionTest, AgreesWithDoubleArithmetic) {
  for (const float softcap : {0.0f, 1.5f}) {
    softcap_ = softcap;
    for (const size_t head_dim : {16, 32, 64, 80, 96, 256}) {
      if (GetParam() == KvFormat::kQ8_0 && head_dim % 32 != 0) continue;
      for (const size_t n : {1, 2, 31, 33, 64, 65, 200, 333}) {
        fill(head_dim, n);
        const auto end = static_cast<int64_t>(n);
        for (const int64_t begin : {int64_t{0}, end / 2, end - 1}) {
          const auto out = run(kernels(), {{begin, end}});
          const auto want = expected(0, {begin, end});
          for (size_t i = 0; i < head_dim; ++i)
            ASSERT_NEAR(out[0][i], want[i], 0.015) << head_dim << " " << n << " " << begin;
        }
      }
    }
  }
}

TEST_P(AttentionTest, GivesTheSameBitsOnEveryIsaAndInEveryGroup) {
  std::mt19937 rng(7);
  for (const size_t head_dim : {32, 64, 96, 160}) {
    fill(head_dim, 203);
    for (const size_t n : {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 23, 24, 31, 32}) {
      for (const auto& ranges :
           {causal(n, 203, 0), causal(n, 203, 70), causal(n, 30, 5), any_ranges(n, 203, rng),
            std::vector<Range>(n, {132, 203}), std::vector<Range>(n, {0, 151})}) {
        Rows alone;
        for (size_t q = 0; q < n; ++q)
          alone.push_back(run(*available_kernels().front(), {ranges[q]}, q)[0]);
        for (const Kernels* isa : available_kernels())
          expect_same_bits(alone, run(*isa, ranges),
                           isa->name + std::string(" of ") + std::to_string(n));
      }
    }
  }
}

// Values from the smallest that are kept to large ones, and those about to be flushed: where the
// bfloat16 dots treat subnormals their own way there must be none.
TEST_P(AttentionTest, GivesTheSameBitsOnEveryIsaAtTheEdgesOfBfloat16) {
  std::mt19937 rng(11);
  for (int round = 0; round < 300; ++round) {
    const int low = round % 3 == 0 ? -60 : round % 3 == 1 ? -30 : -4;
    const int high = round % 3 == 0 ? -50 : round % 3 == 1 ? 4 : 30;
    std::uniform_int_distribution<int> exponent(low, high);
    std::uniform_real_distribution<float> fraction(1.0f, 2.0f);
    fill(64, 64 + 32 * static_cast<size_t>(round % 3), [&] {
      const float x = std::ldexp(fraction(rng), exponent(rng));
      const uint32_t kind = rng() % 16;
      return kind == 0 ? 0.0f : kind == 1 ? -0.0f : kind % 2 == 0 ? -x : x;
    });
    const auto ranges = any_ranges(11, static_cast<int64_t>(keys_.size()), rng);
    const Rows first = run(*available_kernels().front(), ranges);
    for (const Kernels* isa : available_kernels())
      expect_same_bits(first, run(*isa, ranges), isa->name);
  }
}

TEST_P(AttentionTest, WritesTheSameBytesOnEveryIsa) {
  std::mt19937 rng(3);
  std::uniform_int_distribution<int> exponent(-60, 40);
  std::normal_distribution<float> normal;
  fill(64, 77, [&] { return std::ldexp(normal(rng), rng() % 4 == 0 ? exponent(rng) : 0); });
  write(*available_kernels().front());
  const auto bytes = [&] {
    std::vector<std::byte> all;
    for (const std::byte* page : pages_) all.insert(all.end(), page, page + 4 * region());
    return all;
  };
  const auto first = bytes();
  for (const Kernels* isa : available_kernels()) {
    write(*isa);
    EXPECT_EQ(first, bytes()) << isa->name;
  }
}

// Two threads may write the two keys of a pair at a time.
TEST_P(AttentionTest, WritesNothingOfItsNeighbours) {
  const size_t head_dim = 64, half = kv_region_bytes(GetParam(), head_dim);
  const std::vector<float> row(head_dim, 1.5f);
  const size_t element = GetParam() == KvFormat::kQ8_0 ? 1 : 2;  // bytes
  for (const Kernels* isa : available_kernels())
    for (size_t slot = 0; slot < kPageKeys; ++slot) {
      std::vector<std::byte> page(2 * half, std::byte{0xff});
      isa->store_kv(GetParam(), row.data(), row.data(), head_dim, slot, false, page.data(),
                    page.data() + half);
      for (size_t i = 0; i < kPageKeys * head_dim * element; ++i) {
        const size_t at = i / element;  // the element's place in its region
        ASSERT_EQ(page[i] == std::byte{0xff}, at / 2 % kPageKeys != slot) << isa->name << " " << i;
        ASSERT_EQ(page[half + i] == std::byte{0xff}, at / 2 / head_dim * 2 + at % 2 != slot)
            << isa->name << " " << i;
      }
    }
}

// A masked key is not multiplied by 0: a NaN there changes nothing, for a query beside one that
// sees it too, or among others that see what it does.
TEST_P(AttentionTest, NeverReadsAKeyOutOfRange) {
  for (const Kernels* isa : available_kernels()) {
    for (const size_t bad : {0, 1, 30, 31, 63, 64, 97, 98, 99}) {
      const auto at = static_cast<int64_t>(bad);
      std::vector<Range> blind, sees = {{0, 100}};
      if (bad > 0) blind.insert(blind.end(), {{0, at}, {at / 2, at}, {at - 1, at}});
      if (bad < 99) blind.insert(blind.end(), {{at + 1, 100}, {at + 1, at + 2}});
      fill(64, 100);
      const Rows clean = run(*isa, blind, 1);
      std::vector<Rows> clean_alike;
      for (const Range& r : blind) clean_alike.push_back(run(*isa, {r, r, r}, 1));
      for (const float poison : {kNan, std::numeric_limits<float>::infinity()}) {
        fill(64, 100);
        keys_[bad][5] = values_[bad][0] = values_[bad][33] = poison;
        write(*isa);
        std::vector<Range> together = sees;
        together.insert(together.end(), blind.begin(), blind.end());
        Rows beside = run(*isa, together);
        EXPECT_TRUE(std::isnan(beside[0][0])) << isa->name << " " << bad;
        beside.erase(beside.begin());
        expect_same_bits(clean, beside, isa->name + std::string(" bad ") + std::to_string(bad));
        for (size_t i = 0; i < blind.size(); ++i)
          expect_same_bits(clean_alike[i], run(*isa, {blind[i], blind[i], blind[i]}, 1),
                           isa->name + std::string(" alike, bad ") + std::to_string(bad));
      }
    }
  }
}

TEST_P(AttentionTest, TouchesNoPageThatNoQuerySees) {
  for (const Kernels* isa : available_kernels()) {
    fill(64, 400);
    const std::vector<Range> ranges = {{130, 190}, {132, 191}, {159, 192}, {128, 129}};
    const Rows want = run(*isa, ranges);
    for (size_t page = 0; page < pages_.size(); ++page)
      if (page < 4 || page > 5) pages_[page] = nullptr;
    expect_same_bits(want, run(*isa, ranges), isa->name);
  }
}

TEST_P(AttentionTest, PartsFoldToTheWhole) {
  for (const Kernels* isa : available_kernels()) {
    for (const auto& [n_keys, range] :
         std::vector<std::pair<size_t, Range>>{{64, {0, 64}},
                                               {99, {0, 99}},
                                               {100, {3, 100}},
                                               {700, {0, 700}},
                                               {2'500, {70, 2'400}}}) {
      fill(64, n_keys);
      const std::vector<Range> ranges(3, range);
      const Rows want = run(*isa, ranges);
      const int64_t first = range.first / 64, n = (range.second + 63) / 64 - first;
      for (const int64_t cut : {int64_t{1}, n / 3 + 1, n}) {
        Rows parts(3, std::vector<float>(static_cast<size_t>(n) * part_floats(64), kNan));
        Rows got(3, std::vector<float>(64));
        for (int64_t at = 0; at < n; at += cut) {
          AttentionTile part = tile(ranges, 0, got);
          part.in_parts = true;
          part.first_piece = first + at;
          part.n_pieces = std::min(cut, n - at);
          for (size_t q = 0; q < 3; ++q)
            part.out[q] = parts[q].data() + static_cast<size_t>(at) * part_floats(64);
          isa->attention(part);
        }
        for (size_t q = 0; q < 3; ++q)
          isa->fold_parts(parts[q].data(), static_cast<size_t>(n), 64, got[q].data());
        expect_same_bits(want, got, isa->name + std::string(" cut ") + std::to_string(cut));
      }
    }
  }
}

using CacheFormatTest = AttentionTest;
INSTANTIATE_TEST_SUITE_P(Q8, CacheFormatTest, testing::Values(KvFormat::kQ8_0));

// With one visible key the output is that key's value, as the cache gives it back.
TEST_P(CacheFormatTest, GivesBackWhatItsFormulaSays) {
  std::mt19937 rng(5);
  std::uniform_int_distribution<int> exponent(-70, 100);
  std::normal_distribution<float> normal;
  int scale = 0;
  fill(64, 320, [&] {
    if (rng() % 32 == 0) scale = exponent(rng);
    return std::ldexp(normal(rng), scale);
  });
  for (size_t i = 0; i < 32; ++i) {
    values_[0][i] = 0x1p-70f;  // all below what is kept
    values_[1][i] = i == 7 ? -2.0f : 2.0f - 1e-6f * static_cast<float>(i);  // codes at the ends
  }
  for (auto& row : keys_) row.assign(64, 1.0f);
  for (auto& row : queries_) row.assign(64, 0.0f);
  write(kernels());
  for (const Kernels* isa : available_kernels()) {
    for (size_t i = 0; i < values_.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      Rows want = {through_q8(values_[i])};
      expect_same_bits(want, run(*isa, {{at, at + 1}}), isa->name);
      for (size_t j = 0; j < 64; ++j) {
        float amax = 0;
        for (size_t b = j / 32 * 32; b < j / 32 * 32 + 32; ++b)
          amax = std::max(amax, std::fabs(values_[i][b]));
        // Half a code, and the bfloat16 rounding of the product and of the scale.
        ASSERT_LE(std::fabs(want[0][j] - values_[i][j]), amax * (0.5 / 127 + 0.0045) + 0x1p-48f);
      }
    }
  }
}

}  // namespace
}  // namespace smallmind
