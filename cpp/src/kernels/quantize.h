// Kernels that quantise the inputs of products (numerics.md, "Activations").
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// One block of 32 inputs: the code's unit d and its inverse for codes up to a limit; 0 and 0 for a
// block of nothing, NaN and 0 for one with an input that is not finite.
struct BlockUnit {
  float d;
  float inverse;
};

template <class S>
inline BlockUnit block_unit(typename S::Vec low, typename S::Vec high, float limit) {
  // Magnitudes order like their bits, infinity and NaN above all others.
  constexpr int32_t kInfinity = 0x7f800000;
  const int32_t bits = S::max_lane(S::max_ints(S::as_ints(S::abs(low)), S::as_ints(S::abs(high))));
  const float amax = __builtin_bit_cast(float, bits);
  if (bits >= kInfinity) return {__builtin_nanf(""), 0.0f};
  if (amax < 0x1p-100f) return {0.0f, 0.0f};
  return {amax / limit, limit / amax};
}

// Codes of 16 inputs; all 0 where the inverse is, whatever 0 * x gives.
template <class S>
inline typename S::Vec rounded_codes(typename S::Vec x, float inverse) {
  return inverse > 0.0f ? round_even<S>(S::mul(x, S::set1(inverse))) : S::set1(0.0f);
}

// Stores one plane of a block's codes and minus their sums; returns minus the sum of all.
template <class S>
inline int32_t store_plane(typename S::Vec low, typename S::Vec high, size_t at, int8_t* codes,
                           int32_t* minus_half_sums, int32_t* minus_sums) {
  const auto low_codes = S::to_ints(low), high_codes = S::to_ints(high);
  S::store_as_int8(codes + at * 32, low_codes);
  S::store_as_int8(codes + at * 32 + 16, high_codes);
  minus_half_sums[2 * at] = -S::sum_ints(low_codes);
  minus_half_sums[2 * at + 1] = -S::sum_ints(high_codes);
  return minus_sums[at] = minus_half_sums[2 * at] + minus_half_sums[2 * at + 1];
}

template <class S>
inline void quantize_block(const Activations& a, size_t at) {
  const auto low = S::load(a.values + at * 32), high = S::load(a.values + at * 32 + 16);
  const BlockUnit unit = block_unit<S>(low, high, 127.0f);
  const int32_t minus_sum =
      store_plane<S>(rounded_codes<S>(low, unit.inverse), rounded_codes<S>(high, unit.inverse), at,
                     a.codes, a.minus_half_sums, a.minus_sums);
  a.scales[at] = unit.d;
  a.scaled_sums[at] = unit.d * static_cast<float>(-minus_sum);
}

// Two planes: code = 128 * high + low, high the nearest multiple.
template <class S>
inline void quantize_fine_block(const Activations& a, size_t at) {
  const auto low = S::load(a.values + at * 32), high = S::load(a.values + at * 32 + 16);
  const BlockUnit unit = block_unit<S>(low, high, 16'256.0f);
  const auto low_code = rounded_codes<S>(low, unit.inverse),
             high_code = rounded_codes<S>(high, unit.inverse);
  const auto part = S::set1(0x1p-7f), whole = S::set1(-128.0f);
  const auto low_upper = round_even<S>(S::mul(low_code, part)),
             high_upper = round_even<S>(S::mul(high_code, part));
  const int32_t minus_upper =
      store_plane<S>(low_upper, high_upper, at, a.codes, a.minus_half_sums, a.minus_sums);
  const int32_t minus_lower =
      store_plane<S>(S::fma(low_upper, whole, low_code), S::fma(high_upper, whole, high_code), at,
                     a.low_codes, a.low_minus_half_sums, a.low_minus_sums);
  a.scales[at] = unit.d;
  a.scaled_sums[at] = unit.d * static_cast<float>(-(128 * minus_upper + minus_lower));
}

template <class S>
void quantize_fine(const Activations& a, size_t first, size_t n) {
  const size_t n_blocks = a.n_columns / 32;
  for (size_t at = first * n_blocks; at < (first + n) * n_blocks; ++at)
    quantize_fine_block<S>(a, at);
}

template <class S>
void quantize_blocks(const Activations& a, size_t token, size_t first_block, size_t n_blocks) {
  const size_t at = token * (a.n_columns / 32) + first_block;
  for (size_t b = 0; b < n_blocks; ++b) quantize_block<S>(a, at + b);
}

template <class S>
void quantize(const Activations& a, size_t first, size_t n) {
  for (size_t t = first; t < first + n; ++t) quantize_blocks<S>(a, t, 0, a.n_columns / 32);
}

}  // namespace smallmind::kernel
