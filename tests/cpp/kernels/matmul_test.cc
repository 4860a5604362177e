// Matrix products of every format on every instruction set, against the formula of numerics.md
// written out with plain scalars.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "activation_buffer.h"
#include "base/half.h"
#include "products_list.h"
#include "quant/formats.h"
#include "quant/pack.h"

namespace smallmind {
namespace {

using quant::Formats;

constexpr size_t kRows = 37;  // two panels and a part
// Chunks of 8 blocks and a part of one, where the format's own blocks allow it.
template <class F>
constexpr size_t kColumns = F::kFileBlock == 256 ? 512 : 544;
// More than one pass over the tokens, in kernels that unpack a part of a panel at a time.
template <class F>
constexpr size_t kManyColumns = F::kFileBlock == 256 ? 2304 : 2208;

struct Weights {
  gguf::TensorType type;
  std::vector<std::byte> file;  // the rows as a file holds them
  std::vector<std::byte> storage;
  PackedMatrix matrix;
};

// Random or extreme bytes with sane binary16 scales, as file blocks.
template <class F>
std::vector<std::byte> make_file_rows(std::mt19937& rng, int fill, size_t n_columns) {
  std::vector<std::byte> file(quant::row_bytes(F::kType, n_columns) * kRows);
  for (auto& b : file) b = static_cast<std::byte>(fill < 0 ? rng() : static_cast<unsigned>(fill));
  const size_t n_blocks = file.size() / sizeof(typename F::Block);
  const uint16_t halves[] = {0x2c00, 0xac00, 0x1800,
                             0x3555, 0x0001, 0x8003};  // both signs, subnormals too
  for (size_t b = 0; b < n_blocks; ++b) {
    typename F::Block block;
    std::memcpy(&block, file.data() + b * sizeof block, sizeof block);
    if constexpr (!F::kInteger) {
      if constexpr (std::is_same_v<typename F::Block, float>)
        block = static_cast<float>(static_cast<int>(rng() % 2000) - 1000) / 512.0f;
      else
        block = std::is_same_v<F, quant::BF16> ? static_cast<uint16_t>(0x3f00 + rng() % 256)
                                               : halves[rng() % 6];
    } else {
      block.d = halves[rng() % 6];
      if constexpr (requires { block.m; }) block.m = halves[rng() % 6];
      if constexpr (requires { block.dmin; }) block.dmin = halves[rng() % 6];
    }
    std::memcpy(file.data() + b * sizeof block, &block, sizeof block);
  }
  return file;
}

template <class F>
Weights make_weights(std::mt19937& rng, int fill, size_t n_columns) {
  Weights w{F::kType, make_file_rows<F>(rng, fill, n_columns), {}, {}};
  const size_t panel_bytes = quant::panel_bytes(F::kType, n_columns), n_panels = (kRows + 15) / 16;
  w.storage.resize(panel_bytes * n_panels + 64);
  auto* base = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(w.storage.data()) + 63) &
                                            ~uintptr_t{63});
  const size_t row_bytes = quant::row_bytes(F::kType, n_columns);
  for (size_t p = 0; p < n_panels; ++p)
    quant::pack_panel(F::kType, w.file.data() + p * 16 * row_bytes,
                      std::min<size_t>(16, kRows - p * 16), n_columns, base + p * panel_bytes);
  w.matrix = {F::kType, kRows, n_columns, panel_bytes, base};
  return w;
}

// The codes, scale and offset of one file block's sub-block, read off the format's definition by
// way of its dequantised values: code i is recovered exactly from probing the block with its scale
// set to 1.
struct SubBlock {
  std::vector<int> codes;  // after the zero point
  float scale;
  float offset;
};

std::vector<SubBlock> sub_blocks(const quant::Q4_0::Block& b) {
  SubBlock s{std::vector<int>(32), half_to_float(b.d), 0};
  for (int i = 0; i < 32; ++i) s.codes[i] = (i < 16 ? b.codes[i] & 15 : b.codes[i - 16] >> 4) - 8;
  return {s};
}
std::vector<SubBlock> sub_blocks(const quant::Q4_1::Block& b) {
  SubBlock s{std::vector<int>(32), half_to_float(b.d), half_to_float(b.m)};
  for (int i = 0; i < 32; ++i) s.codes[i] = i < 16 ? b.codes[i] & 15 : b.codes[i - 16] >> 4;
  return {s};
}
std::vector<SubBlock> sub_blocks(const quant::Q5_0::Block& b) {
  SubBlock s{std::vector<int>(32), half_to_float(b.d), 0};
  for (int i = 0; i < 32; ++i)
    s.codes[i] =
        ((i < 16 ? b.codes[i] & 15 : b.codes[i - 16] >> 4) | (b.high[i / 8] >> (i % 8) & 1) << 4) -
        16;
  return {s};
}
std::vector<SubBlock> sub_blocks(const quant::Q8_0::Block& b) {
  SubBlock s{std::vector<int>(32), half_to_float(b.d), 0};
  for (int i = 0; i < 32; ++i) s.codes[i] = b.codes[i];
  return {s};
}
std::vector<SubBlock> sub_blocks(const quant::Q4_K::Block& b) {
  std::vector<SubBlock> all;
  for (size_t j = 0; j < 8; ++j) {
    SubBlock s{std::vector<int>(32), half_to_float(b.d) * quant::Q4_K::scale_of(b, j),
               -(half_to_float(b.dmin) * quant::Q4_K::min_of(b, j))};
    for (size_t i = 0; i < 32; ++i) s.codes[i] = b.codes[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
    all.push_back(s);
  }
  return all;
}
std::vector<SubBlock> sub_blocks(const quant::Q6_K::Block& b) {
  std::vector<SubBlock> all;
  for (size_t j = 0; j < 16; ++j) {
    SubBlock s{std::vector<int>(16), half_to_float(b.d) * static_cast<float>(b.scales[j]), 0};
    for (size_t i = 0; i < 16; ++i) {
      const size_t e = j * 16 + i, half = e / 128, quarter = e % 128 / 32, l = e % 32;
      const int low = b.low[64 * half + 32 * (quarter % 2) + l] >> (quarter / 2 * 4) & 15;
      s.codes[i] = (low | (b.high[32 * half + l] >> (2 * quarter) & 3) << 4) - 32;
    }
    all.push_back(s);
  }
  return all;
}

int64_t input_code(const Activations& a, size_t i) {
  return a.low_codes == nullptr ? int64_t{a.codes[i]} : 128 * int64_t{a.codes[i]} + a.low_codes[i];
}

template <class F>
float expected_dot(const Weights& w, size_t row, const Activations& a, size_t token) {
  float acc = 0;
  const size_t n_columns = a.n_columns;
  const std::byte* bytes = w.file.data() + row * quant::row_bytes(F::kType, n_columns);
  if constexpr (!F::kInteger) {
    std::vector<float> plain(n_columns);
    quant::dequantize(F::kType, {bytes, quant::row_bytes(F::kType, n_columns)}, plain);
    for (size_t c = 0; c < n_columns; ++c)
      acc = std::fma(plain[c], a.values[token * n_columns + c], acc);
  } else {
    size_t column = 0;
    for (size_t i = 0; i < n_columns / F::kFileBlock; ++i) {
      typename F::Block block;
      std::memcpy(&block, bytes + i * sizeof block, sizeof block);
      for (const SubBlock& s : sub_blocks(block)) {
        int64_t dot = 0;
        for (size_t k = 0; k < s.codes.size(); ++k)
          dot += int64_t{s.codes[k]} * input_code(a, token * n_columns + column + k);
        const size_t at = (token * n_columns + column) / 32;
        acc = std::fma(static_cast<float>(dot), s.scale * a.scales[at], acc);
        if constexpr (F::kHasMin) acc = std::fma(s.offset, a.scaled_sums[at], acc);
        column += s.codes.size();
      }
    }
  }
  return acc;
}

// Panels [first, first + n_panels) of w, whose rows up to w.n_rows alone are written: as in `all`.
void expect_rows(const Kernels& isa, const PackedMatrix& w, size_t first, size_t n_panels,
                 const Activations& a, const std::vector<float>& all) {
  std::vector<float> out(all.size(), -1.0f);
  isa.matmul(w, first, n_panels, a, all.size() / kRows, out.data(), kRows);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t row = i % kRows;
    const bool is_written = row >= first * 16 && row < w.n_rows;
    ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(is_written ? all[i] : -1.0f))
        << isa.name << " type " << static_cast<int>(w.type) << " of " << w.n_rows << " rows, token "
        << i / kRows << " of " << all.size() / kRows << " row " << row;
  }
}

enum class Inputs { kRandom, kExtreme, kHighest };

float draw(std::mt19937& rng, Inputs inputs) {
  if (inputs == Inputs::kHighest) return 3.0f;
  if (inputs == Inputs::kExtreme) return rng() % 2 ? 3.0f : -3.0f;
  return static_cast<float>(static_cast<int>(rng() % 20001) - 10000) / 700.0f;
}

template <class F>
void check_format(int fill, Inputs inputs, size_t n_tokens, bool fine = false,
                  size_t n_columns = kColumns<F>) {
  std::mt19937 rng(static_cast<unsigned>(fill + 100) * 31 + static_cast<unsigned>(n_tokens));
  const Weights w = make_weights<F>(rng, fill, n_columns);
  ActivationBuffer buffer(n_tokens, n_columns);
  const Activations a = buffer.view(fine);
  for (size_t i = 0; i < n_tokens * n_columns; ++i) a.values[i] = draw(rng, inputs);
  for (const Kernels& isa : available_products()) {
    (fine ? isa.quantize_fine : isa.quantize)(a, 0, n_tokens);
    std::vector<float> out(n_tokens * kRows, -1.0f);
    isa.matmul(w.matrix, 0, w.matrix.n_panels(), a, n_tokens, out.data(), kRows);
    for (size_t t = 0; t < n_tokens; ++t) {
      for (size_t r = 0; r < kRows; ++r) {
        const float want = expected_dot<F>(w, r, a, t);
        ASSERT_EQ(std::bit_cast<uint32_t>(out[t * kRows + r]), std::bit_cast<uint32_t>(want))
            << isa.name << " type " << static_cast<int>(F::kType) << " fill " << fill << " token "
            << t << " of " << n_tokens << " row " << r << ": " << out[t * kRows + r] << " against "
            << want;
      }
    }
    // From the second panel on others stand first and last. Last panels of 8 and of 13 rows.
    expect_rows(isa, w.matrix, 1, w.matrix.n_panels() - 1, a, out);
    for (const size_t n_rows : {24, 29}) {
      PackedMatrix cut = w.matrix;
      cut.n_rows = n_rows;
      expect_rows(isa, cut, 0, cut.n_panels(), a, out);
    }
  }
}

TEST(MatmulTest, GivesTheFrozenFormulaBitForBitOnRandomCodes) {
  for (const size_t n_tokens : {1, 2, 3, 4, 5, 12, 13, 16, 31, 33, 67})
    Formats::for_each([&]<class F>() { check_format<F>(-1, Inputs::kRandom, n_tokens); });
}

// All codes at their ends, Q8_0's -128 included (fill 0x80), with inputs of +-127 and of 127 alone.
TEST(MatmulTest, GivesTheFrozenFormulaAtExtremeCodes) {
  for (const int fill : {0x00, 0x80, 0x7f, 0xff, 0x0f, 0xf0}) {
    for (const size_t n_tokens : {3, 4, 6, 16}) {
      Formats::for_each([&]<class F>() {
        check_format<F>(fill, Inputs::kExtreme, n_tokens);
        check_format<F>(fill, Inputs::kHighest, n_tokens);
      });
    }
  }
}

// More tokens than pass over unpacked weights at once, more columns than are unpacked at once, one
// block alone, and one behind all that are unpacked at once.
TEST(MatmulTest, GivesTheFrozenFormulaForManyTokensAndForLongAndShortRows) {
  Formats::for_each([&]<class F>() {
    check_format<F>(-1, Inputs::kRandom, 138, false, kManyColumns<F>);
    for (const size_t n_tokens : {5, 12, 31}) {
      for (const bool fine : {false, true}) {
        check_format<F>(-1, Inputs::kRandom, n_tokens, fine, kManyColumns<F>);
        check_format<F>(-1, Inputs::kRandom, n_tokens, fine, F::kFileBlock == 256 ? 256 : 32);
        if (F::kFileBlock != 256) check_format<F>(-1, Inputs::kRandom, n_tokens + 16, fine, 800);
      }
    }
  });
}

TEST(MatmulTest, GivesTheFrozenFormulaWithTwoPlanesOfInputs) {
  for (const size_t n_tokens : {1, 3, 12, 16, 31, 37}) {
    Formats::for_each([&]<class F>() {
      check_format<F>(-1, Inputs::kRandom, n_tokens, true);
      check_format<F>(0x80, Inputs::kExtreme, n_tokens, true);
      check_format<F>(0xff, Inputs::kExtreme, n_tokens, true);
    });
  }
}

}  // namespace
}  // namespace smallmind
