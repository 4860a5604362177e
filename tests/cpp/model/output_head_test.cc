// The first ranks without the logits of all others are what sorting all of them gives.
#include "model/output_head.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "activation_buffer.h"
#include "random_matrix.h"

namespace smallmind {
namespace {

constexpr size_t kEmbd = 256;
constexpr size_t kVocab = 5'003;  // 313 panels, the last with 11 rows

// A model of nothing but its head.
class Head {
 public:
  Head(RandomMatrix& matrix, int n_threads, float softcap = 0, bool has_norms = true)
      : gang_(n_threads) {
    config_.n_embd = kEmbd;
    config_.n_heads = config_.n_kv_heads = 1;
    config_.head_dim = config_.n_rot = 16;
    config_.n_ff = 32;
    config_.n_vocab = kVocab;
    config_.norm_eps = 1e-6f;
    config_.logit_softcap = softcap;
    weights_.output_norm.assign(kEmbd, 1.0f);
    workspace_ = std::make_unique<DecoderWorkspace>(config_, weights_, nullptr);
    std::vector<float> norms(has_norms ? matrix.view().n_panels() : 0);
    kernels().panel_norms(matrix.view(), 0, norms.size(), norms.data());
    head_ = std::make_unique<OutputHead>(matrix.view(), softcap, std::move(norms), nullptr);
  }

  float* hidden(size_t i) { return workspace_->hidden.data() + i * kEmbd; }

  std::vector<TokenLogit> sorted(int32_t row) {
    std::vector<float> logits(kVocab);
    head_->logits(step(), {&row, 1}, logits.data());
    std::vector<TokenLogit> all;
    for (size_t id = 0; id < kVocab; ++id) all.push_back({logits[id], static_cast<int32_t>(id)});
    std::stable_sort(all.begin(), all.end(),
                     [](const TokenLogit& a, const TokenLogit& b) { return a.logit > b.logit; });
    return all;
  }

  // Rows 0 ... n - 1; n_found of each is 0, or the ranks are right. Returns how many were found.
  size_t check(size_t n_rows, size_t n_wanted) {
    std::vector<TokenLogit> ranks(n_rows * kMaxRanks);
    std::vector<RankedRow> rows;
    for (size_t i = 0; i < n_rows; ++i)
      rows.push_back({static_cast<int32_t>(i), n_wanted, ranks.data() + i * kMaxRanks, 77});
    head_->first_ranks(step(), rows);
    size_t n_found = 0;
    for (const RankedRow& row : rows) {
      if (row.n_found == 0) continue;
      EXPECT_EQ(row.n_found, n_wanted);
      const std::vector<TokenLogit> want = sorted(row.row);
      for (size_t i = 0; i < n_wanted; ++i) {
        EXPECT_EQ(row.ranks[i].id, want[i].id) << "rank " << i << " of row " << row.row;
        EXPECT_EQ(std::bit_cast<uint32_t>(row.ranks[i].logit),
                  std::bit_cast<uint32_t>(want[i].logit));
      }
      ++n_found;
    }
    return n_found;
  }

 private:
  Step step() { return {config_, weights_, kv_, *workspace_, gang_}; }

  Config config_;
  Weights weights_;
  KvLayout kv_;
  Gang gang_;
  std::unique_ptr<DecoderWorkspace> workspace_;
  std::unique_ptr<OutputHead> head_;
};

// All codes that quantize_fine gives, and a few more.
TEST(HalvedCodes, FitTheLimitAndAddUp) {
  constexpr int32_t kLast = 127 * 128 + 64;
  constexpr size_t kColumns = (2 * kLast + 1 + 31) / 32 * 32;
  ActivationBuffer from_buffer(1, kColumns), to_buffer(1, kColumns);
  const Activations from = from_buffer.view(true), to = to_buffer.view(true);
  for (size_t i = 0; i < kColumns; ++i) {
    const int32_t code = std::min(static_cast<int32_t>(i) - kLast, kLast);
    const int32_t upper = std::clamp((code + 64) >> 7, -127, 127);
    from.codes[i] = static_cast<int8_t>(upper);
    from.low_codes[i] = static_cast<int8_t>(code - 128 * upper);
  }
  halve_codes(from, to);
  for (size_t i = 0; i < kColumns; ++i) {
    EXPECT_LE(std::abs(to.codes[i]), 64);
    EXPECT_LE(std::abs(to.low_codes[i]), 64);
    const int32_t code = 128 * from.codes[i] + from.low_codes[i];
    const int32_t left = code - 2 * (128 * to.codes[i] + to.low_codes[i]);
    EXPECT_TRUE(left == 0 || left == 1) << code;
  }
  for (size_t half = 0; half < kColumns / 16; ++half) {
    const auto sum = [&](const int8_t* codes) {
      return std::accumulate(codes + half * 16, codes + half * 16 + 16, 0);
    };
    EXPECT_EQ(to.minus_half_sums[half], -sum(to.codes));
    EXPECT_EQ(to.low_minus_half_sums[half], -sum(to.low_codes));
  }
  for (size_t block = 0; block < kColumns / 32; ++block) {
    EXPECT_EQ(to.minus_sums[block],
              to.minus_half_sums[2 * block] + to.minus_half_sums[2 * block + 1]);
    EXPECT_EQ(to.low_minus_sums[block],
              to.low_minus_half_sums[2 * block] + to.low_minus_half_sums[2 * block + 1]);
  }
}

class OutputHeadTest : public testing::TestWithParam<gguf::TensorType> {
 protected:
  static bool has_shortcut() { return is_code_times_scale(GetParam()); }

  // Hidden states with one or several tokens in front, near ones too.
  static void draw_hidden(const RandomMatrix& matrix, std::mt19937& rng, float* hidden) {
    std::normal_distribution<float> draw;
    for (size_t c = 0; c < kEmbd; ++c) hidden[c] = draw(rng);
    for (unsigned n = rng() % 4; n > 0; --n) {
      const std::vector<float> row = matrix.row(rng() % kVocab);
      double squares = 0;
      for (const float x : row) squares += double{x} * double{x};
      const double share = (0.5 + static_cast<double>(rng() % 100) / 100) * 16 / std::sqrt(squares);
      for (size_t c = 0; c < kEmbd; ++c) hidden[c] += static_cast<float>(share) * row[c];
    }
  }

  std::mt19937 rng_{5};
};

INSTANTIATE_TEST_SUITE_P(Formats, OutputHeadTest, testing::ValuesIn(all_formats()));

TEST_P(OutputHeadTest, FindsTheFirstRanksOfMostRowsAndOnlyThose) {
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  for (const int n_threads : {1, 3}) {
    Head head(matrix, n_threads);
    for (const size_t n_rows : {1, 7, 64}) {
      for (const size_t n_wanted : {1, 3, 42}) {
        for (size_t i = 0; i < n_rows; ++i) draw_hidden(matrix, rng_, head.hidden(i));
        const size_t n_found = head.check(n_rows, n_wanted);
        if (!has_shortcut()) {
          EXPECT_EQ(n_found, 0u);
        } else if (n_rows == 64) {
          // Found means that at most a quarter of the panels was computed.
          EXPECT_GT(n_found, n_wanted == 42 ? 20u : 56u) << n_wanted << " wanted";
        }
      }
    }
  }
}

// Rows of weights that are equal, in one panel, in many, in the last one: the lowest id goes first.
TEST_P(OutputHeadTest, EqualLogitsRankById) {
  if (!has_shortcut()) return;
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  for (const size_t to : {31, 2'003, 2'010, 4'990, 5'002}) matrix.copy_row(500, to);
  Head head(matrix, 2);
  const std::vector<float> row = matrix.row(500);
  std::copy(row.begin(), row.end(), head.hidden(0));
  for (const size_t n_wanted : {1, 2, 5, 6, 7}) EXPECT_EQ(head.check(1, n_wanted), 1u);
}

// The upper plane says nothing about blocks in the shadow of one large input, and its error is as
// large as the logits.
TEST_P(OutputHeadTest, InputsOfVeryDifferentSizesGiveTheRightRanksOrNone) {
  if (!has_shortcut()) return;
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  Head head(matrix, 2);
  for (const float factor : {1e2f, 1e4f, 1e8f, 1e30f}) {
    for (size_t i = 0; i < 16; ++i) {
      draw_hidden(matrix, rng_, head.hidden(i));
      for (size_t n = 1 + rng_() % 9; n > 0; --n) head.hidden(i)[rng_() % kEmbd] *= factor;
    }
    for (const size_t n_wanted : {1, 40}) head.check(16, n_wanted);
  }
}

TEST_P(OutputHeadTest, InputsThatAreAllSmallOrNothingGiveTheRightRanksOrNone) {
  if (!has_shortcut()) return;
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  Head head(matrix, 2);
  for (const float factor : {1e-3f, 1e-15f, 1e-30f, 1e-40f, 0.0f}) {
    for (size_t i = 0; i < 8; ++i) {
      draw_hidden(matrix, rng_, head.hidden(i));
      for (size_t c = 0; c < kEmbd; ++c) head.hidden(i)[c] *= factor;
    }
    head.check(8, 1);
  }
}

// G-65: the caller then computes the logits and says which is not finite.
TEST_P(OutputHeadTest, FindsNothingWhereALogitIsNotFinite) {
  if (!has_shortcut()) return;
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  Head head(matrix, 2);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    for (size_t i = 0; i < 4; ++i) {
      const std::vector<float> row = matrix.row(100 * i);
      std::copy(row.begin(), row.end(), head.hidden(i));
    }
    EXPECT_EQ(head.check(4, 1), 4u);
    head.hidden(2)[77] = bad;
    EXPECT_EQ(head.check(4, 1), 3u);  // the others are found beside it
  }
  matrix.set_last_scale(4'000, 0x7e00);  // NaN
  Head spoilt(matrix, 2);
  std::fill_n(spoilt.hidden(0), kEmbd, 1.0f);
  EXPECT_EQ(spoilt.check(1, 1), 0u);
}

// Rounded, a cap makes different logits equal, and the lower id would win.
TEST_P(OutputHeadTest, ACapLeavesNoShortcut) {
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  Head head(matrix, 1, 30.0f);
  const std::vector<float> row = matrix.row(7);
  std::copy(row.begin(), row.end(), head.hidden(0));
  EXPECT_EQ(head.check(1, 1), 0u);
}

TEST_P(OutputHeadTest, WithoutTheLengthsOfRowsThereIsNoShortcut) {
  RandomMatrix matrix(GetParam(), kVocab, kEmbd, rng_);
  Head head(matrix, 1, 0, false);
  const std::vector<float> row = matrix.row(7);
  std::copy(row.begin(), row.end(), head.hidden(0));
  EXPECT_EQ(head.check(1, 1), 0u);
}

}  // namespace
}  // namespace smallmind
