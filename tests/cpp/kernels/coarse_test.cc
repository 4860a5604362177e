// Coarse products and the lengths of rows, on every instruction set, against matmul and plain
// arithmetic.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "activation_buffer.h"
#include "products_list.h"
#include "random_matrix.h"

namespace smallmind {
namespace {

constexpr size_t kRows = 37;  // two panels and a part

double longest_row(const RandomMatrix& matrix, size_t panel) {
  double longest = 0;
  for (size_t row = panel * 16; row < std::min(kRows, panel * 16 + 16); ++row) {
    double squares = 0;
    for (const float x : matrix.row(row)) squares += double{x} * double{x};
    longest = std::max(longest, std::sqrt(squares));
  }
  return longest;
}

class CoarseTest : public testing::TestWithParam<gguf::TensorType> {
 protected:
  static constexpr size_t kColumns = 512;
};

INSTANTIATE_TEST_SUITE_P(Formats, CoarseTest, testing::ValuesIn(all_formats()));

TEST_P(CoarseTest, LengthsOfRowsAreRoundedUpALittle) {
  std::mt19937 rng(1);
  const RandomMatrix matrix(GetParam(), kRows, kColumns, rng);
  for (const Kernels* isa : available_kernels()) {
    std::vector<float> norms(3);
    isa->panel_norms(matrix.view(), 0, 3, norms.data());
    for (size_t p = 0; p < 3; ++p) {
      if (!is_code_times_scale(GetParam())) {
        EXPECT_EQ(norms[p], std::numeric_limits<float>::infinity()) << isa->name;
        continue;
      }
      const double longest = longest_row(matrix, p);
      EXPECT_GE(norms[p], longest) << isa->name;
      EXPECT_LE(norms[p], longest * 1.002) << isa->name;
    }
  }
}

// Two squares of -128 do not fit a signed word of 16 bits.
TEST_P(CoarseTest, LengthsOfRowsOfExtremeCodes) {
  if (!is_code_times_scale(GetParam())) return;
  std::mt19937 rng(4);
  for (const uint8_t code : {0x00, 0x80, 0x7f, 0xff}) {
    RandomMatrix matrix(GetParam(), kRows, kColumns, rng);
    matrix.fill(code, rng);
    for (const Kernels* isa : available_kernels()) {
      std::vector<float> norms(3);
      isa->panel_norms(matrix.view(), 0, 3, norms.data());
      for (size_t p = 0; p < 3; ++p) {
        const double longest = longest_row(matrix, p);
        EXPECT_GE(norms[p], longest) << isa->name;
        EXPECT_LE(norms[p], longest * 1.002) << isa->name;
      }
    }
  }
}

TEST_P(CoarseTest, ARowThatIsNotFiniteHasNoLength) {
  if (!is_code_times_scale(GetParam())) return;
  std::mt19937 rng(2);
  for (const uint16_t bad : {0x7c00, 0xfc00, 0x7e00}) {
    RandomMatrix matrix(GetParam(), kRows, kColumns, rng);
    matrix.set_last_scale(20, bad);
    for (const Kernels* isa : available_kernels()) {
      std::vector<float> norms(3);
      isa->panel_norms(matrix.view(), 0, 3, norms.data());
      EXPECT_TRUE(std::isfinite(norms[0]) && std::isfinite(norms[2])) << isa->name;
      EXPECT_EQ(norms[1], std::numeric_limits<float>::infinity()) << isa->name;
    }
  }
}

// maxima[t * stride + p] is the highest of panel p's rows of token t, bit for bit.
void expect_highest(const Kernels& isa, const std::vector<float>& rows, size_t n_tokens,
                    const float* maxima, size_t stride) {
  for (size_t t = 0; t < n_tokens; ++t) {
    for (size_t p = 0; p < 3; ++p) {
      const float* const row = rows.data() + t * kRows;
      const float want = *std::max_element(row + p * 16, row + std::min(kRows, p * 16 + 16));
      ASSERT_EQ(std::bit_cast<uint32_t>(maxima[t * stride + p]), std::bit_cast<uint32_t>(want))
          << isa.name << " token " << t << " of " << n_tokens << " panel " << p;
    }
  }
}

// Sets the sums of all n codes.
void sum_codes(const Activations& a, size_t n) {
  std::fill_n(a.minus_half_sums, n / 16, 0);
  std::fill_n(a.minus_sums, n / 32, 0);
  std::fill_n(a.low_minus_half_sums, n / 16, 0);
  std::fill_n(a.low_minus_sums, n / 32, 0);
  for (size_t i = 0; i < n; ++i) {
    a.minus_half_sums[i / 16] -= a.codes[i];
    a.minus_sums[i / 32] -= a.codes[i];
    a.low_minus_half_sums[i / 16] -= a.low_codes[i];
    a.low_minus_sums[i / 32] -= a.low_codes[i];
  }
}

// Quantised inputs of normal values, their codes within the set's limit.
Activations draw_inputs(const Kernels& isa, ActivationBuffer& buffer, size_t n_tokens,
                        std::mt19937& rng) {
  Activations a = buffer.view(true);
  std::normal_distribution<float> draw;
  const size_t n = n_tokens * a.n_columns;
  for (size_t i = 0; i < n; ++i) a.values[i] = draw(rng);
  isa.quantize_fine(a, 0, n_tokens);
  if (isa.coarse_limit >= 127) return a;
  for (size_t i = 0; i < n; ++i) {
    a.codes[i] = static_cast<int8_t>(a.codes[i] * isa.coarse_limit / 127);
    EXPECT_LE(std::abs(a.low_codes[i]), isa.coarse_limit);
  }
  sum_codes(a, n);
  return a;
}

// Inputs whose codes are all as far from 0 as the set takes them.
Activations extreme_inputs(const Kernels& isa, ActivationBuffer& buffer, size_t n_tokens,
                           int sign) {
  const Activations a = buffer.view(true);
  const size_t n = n_tokens * a.n_columns;
  std::fill_n(a.codes, n, static_cast<int8_t>(sign * isa.coarse_limit));
  std::fill_n(a.low_codes, n, static_cast<int8_t>(sign * 64));
  std::fill_n(a.scales, n / 32, 0.5f);
  sum_codes(a, n);
  return a;
}

// All blocks fine: matmul's two planes. None: its one plane.
TEST_P(CoarseTest, KeepsTheHighestOfWhatMatmulGives) {
  if (!is_code_times_scale(GetParam())) return;
  std::mt19937 rng(3);
  const RandomMatrix matrix(GetParam(), kRows, kColumns, rng);
  for (const Kernels& isa : available_products()) {
    for (const size_t n_tokens : {1, 2, 3, 4, 16, 33, 64}) {
      ActivationBuffer buffer(n_tokens, kColumns);
      const Activations a = draw_inputs(isa, buffer, n_tokens, rng);
      for (const bool fine : {false, true}) {
        const auto is_fine = std::make_unique<bool[]>(kColumns / 32);
        std::fill_n(is_fine.get(), kColumns / 32, fine);
        std::vector<float> all(n_tokens * kRows), out(n_tokens * 5, -1.0f);
        isa.coarse_maxima(matrix.view(), 0, 3, a, is_fine.get(), n_tokens, out.data() + 1, 5);
        Activations planes = a;
        if (!fine) planes.low_codes = nullptr;
        isa.matmul(matrix.view(), 0, 3, planes, n_tokens, all.data(), kRows);
        for (size_t t = 0; t < n_tokens; ++t) EXPECT_EQ(out[t * 5], -1.0f);
        expect_highest(isa, all, n_tokens, out.data() + 1, 5);
      }
    }
  }
}

// The highest and lowest codes of weights and of inputs, which must not overflow 16 bits.
TEST_P(CoarseTest, ExtremeCodesTimesExtremeInputs) {
  if (!is_code_times_scale(GetParam())) return;
  std::mt19937 rng(6);
  for (const uint8_t code : {0x00, 0x80, 0x7f, 0xff}) {
    RandomMatrix matrix(GetParam(), kRows, kColumns, rng);
    matrix.fill(code, rng);
    for (const Kernels& isa : available_products()) {
      for (const int sign : {1, -1}) {
        for (const size_t n_tokens : {1, 8, 16}) {
          ActivationBuffer buffer(n_tokens, kColumns);
          const Activations a = extreme_inputs(isa, buffer, n_tokens, sign);
          for (const bool fine : {false, true}) {
            bool is_fine[kColumns / 32];
            std::fill(std::begin(is_fine), std::end(is_fine), fine);
            Activations planes = a;
            if (!fine) planes.low_codes = nullptr;
            std::vector<float> all(n_tokens * kRows), out(n_tokens * 3);
            kernels_by_name("generic")->matmul(matrix.view(), 0, 3, planes, n_tokens, all.data(),
                                               kRows);
            isa.coarse_maxima(matrix.view(), 0, 3, a, is_fine, n_tokens, out.data(), 3);
            expect_highest(isa, all, n_tokens, out.data(), 3);
          }
        }
      }
    }
  }
}

// Some blocks fine, others not, in no order: what matmul gives for two planes of which the lower
// one is 0 where a block is not fine, once the scales there are of the upper plane's unit.
TEST_P(CoarseTest, TakesBothPlanesOfSomeBlocks) {
  if (!is_code_times_scale(GetParam())) return;
  constexpr size_t kBlocks = 40, kLongRow = 32 * kBlocks;
  std::mt19937 rng(5);
  const RandomMatrix matrix(GetParam(), kRows, kLongRow, rng);
  for (const Kernels& isa : available_products()) {
    for (const size_t n_tokens : {1, 4, 7, 12, 16, 31, 37}) {
      ActivationBuffer buffer(n_tokens, kLongRow);
      const Activations a = draw_inputs(isa, buffer, n_tokens, rng);
      bool is_fine[kBlocks];
      for (bool& fine : is_fine) fine = rng() % 2 != 0;
      for (size_t block = 0; block < n_tokens * kBlocks; ++block)
        if (!is_fine[block % kBlocks]) std::fill_n(a.low_codes + block * 32, 32, int8_t{0});
      sum_codes(a, n_tokens * kLongRow);
      std::vector<float> all(n_tokens * kRows), out(n_tokens * 3);
      isa.matmul(matrix.view(), 0, 3, a, n_tokens, all.data(), kRows);
      for (size_t block = 0; block < n_tokens * kBlocks; ++block)
        if (!is_fine[block % kBlocks]) a.scales[block] *= 128;
      isa.coarse_maxima(matrix.view(), 0, 3, a, is_fine, n_tokens, out.data(), 3);
      expect_highest(isa, all, n_tokens, out.data(), 3);
    }
  }
}

}  // namespace
}  // namespace smallmind
