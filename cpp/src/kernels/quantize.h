// Kernels that quantise the inputs of products (numerics.md, "Activations").
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// Of some blocks of 32 inputs: the code's unit d and its inverse for codes up to a limit, in the
// first lanes; 0 and 0 for a block of nothing, NaN and 0 for one with an input that is not finite.
template <class S>
struct BlockUnits {
  alignas(64) float d[16];
  alignas(64) float inverse[16];
};

template <class S, size_t kBlocks>
inline BlockUnits<S> block_units(const float* values, float limit) {
  // Magnitudes order like their bits, infinity and NaN above all others.
  const auto max_bits = [](const auto& a, const auto& b) {
    return S::as_floats(S::max_ints(S::as_ints(a), S::as_ints(b)));
  };
  typename S::Vec rows[kBlocks];
  for (size_t b = 0; b < kBlocks; ++b)
    rows[b] = max_bits(S::abs(S::load(values + b * 32)), S::abs(S::load(values + b * 32 + 16)));
  const auto amax = fold_rows<S>(rows, max_bits);
  const auto infinity = S::set1(__builtin_inff()), zero = S::set1(0.0f);
  const auto or_zero = [&](auto x) { return S::select_less(amax, S::set1(0x1p-100f), zero, x); };
  const auto d = or_zero(S::div(amax, S::set1(limit)));
  const auto inverse = or_zero(S::div(S::set1(limit), amax));
  BlockUnits<S> units;
  S::store(units.d, S::select_less(amax, infinity, d, S::set1(__builtin_nanf(""))));
  S::store(units.inverse, S::select_less(amax, infinity, inverse, zero));
  return units;
}

// Codes of 16 inputs; all 0 where the inverse is, whatever 0 * x gives.
template <class S>
inline typename S::Vec rounded_codes(typename S::Vec x, float inverse) {
  return inverse > 0.0f ? round_even<S>(S::mul(x, S::set1(inverse))) : S::set1(0.0f);
}

// One plane of the codes of some blocks; rows 2 b and 2 b + 1 are block b's.
template <class S, size_t kBlocks>
struct CodePlane {
  typename S::Vec rows[2 * kBlocks];

  // Stores them from block `at` on, and minus their sums, which floats hold exactly.
  [[gnu::always_inline]] void store(size_t at, int8_t* codes, int32_t* minus_half_sums,
                                    int32_t* minus_sums) const {
    for (size_t r = 0; r < 2 * kBlocks; ++r)
      S::store_as_int8(codes + at * 32 + r * 16, S::to_ints(rows[r]));
    alignas(64) float sums[16];
    S::store(sums, sum_rows<S>(rows));
    for (size_t r = 0; r < 2 * kBlocks; ++r)
      minus_half_sums[2 * at + r] = -static_cast<int32_t>(sums[r]);
    for (size_t b = 0; b < kBlocks; ++b)
      minus_sums[at + b] = -static_cast<int32_t>(sums[2 * b] + sums[2 * b + 1]);
  }
};

// kBlocks blocks from `at` on. kFine: two planes, code = 128 * upper + lower, upper the nearest
// multiple.
template <class S, bool kFine, size_t kBlocks>
inline void quantize_some(const Activations& a, size_t at) {
  const float* values = a.values + at * 32;
  const BlockUnits<S> units = block_units<S, kBlocks>(values, kFine ? 16'256.0f : 127.0f);
  CodePlane<S, kBlocks> upper, lower;
  for (size_t r = 0; r < 2 * kBlocks; ++r) {
    const float inverse = units.inverse[r / 2];
    if constexpr (kFine) {
      const auto code = rounded_codes<S>(S::load(values + r * 16), inverse);
      upper.rows[r] = round_even<S>(S::mul(code, S::set1(0x1p-7f)));
      lower.rows[r] = S::fma(upper.rows[r], S::set1(-128.0f), code);
    } else {
      upper.rows[r] = rounded_codes<S>(S::load(values + r * 16), inverse);
    }
  }
  upper.store(at, a.codes, a.minus_half_sums, a.minus_sums);
  if constexpr (kFine) lower.store(at, a.low_codes, a.low_minus_half_sums, a.low_minus_sums);
  for (size_t b = 0; b < kBlocks; ++b) {
    const int32_t minus_sum =
        kFine ? 128 * a.minus_sums[at + b] + a.low_minus_sums[at + b] : a.minus_sums[at + b];
    a.scales[at + b] = units.d[b];
    a.scaled_sums[at + b] = units.d[b] * static_cast<float>(-minus_sum);
  }
}

// Eight blocks have 16 sums, which are found together.
template <class S, bool kFine>
inline void quantize_range(const Activations& a, size_t at, size_t n) {
  const size_t end = at + n;
  for (; at + 8 <= end; at += 8) quantize_some<S, kFine, 8>(a, at);
  for (; at + 4 <= end; at += 4) quantize_some<S, kFine, 4>(a, at);
  for (; at + 2 <= end; at += 2) quantize_some<S, kFine, 2>(a, at);
  if (at < end) quantize_some<S, kFine, 1>(a, at);
}

template <class S>
void quantize_fine(const Activations& a, size_t first, size_t n) {
  const size_t n_blocks = a.n_columns / 32;
  quantize_range<S, true>(a, first * n_blocks, n * n_blocks);
}

template <class S>
void quantize_blocks(const Activations& a, size_t token, size_t first_block, size_t n_blocks) {
  quantize_range<S, false>(a, token * (a.n_columns / 32) + first_block, n_blocks);
}

template <class S>
void quantize(const Activations& a, size_t first, size_t n) {
  const size_t n_blocks = a.n_columns / 32;
  quantize_range<S, false>(a, first * n_blocks, n * n_blocks);
}

}  // namespace smallmind::kernel
