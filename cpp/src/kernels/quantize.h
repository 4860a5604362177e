// Kernels that quantise the inputs of products (numerics.md, "Activations").
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// The highest code of one plane of inputs, or of two.
template <bool kFine>
inline constexpr float kLimit = kFine ? 16'256.0f : 127.0f;

// Of some blocks of 32 inputs, one a lane: their highest magnitudes, the code's unit d and its
// inverse for codes up to a limit; 0 and 0 for a block of nothing, NaN and 0 for one with an input
// that is not finite. Lanes behind the last block: as of one of these, or of a block of nothing.
template <class S>
struct BlockUnits {
  typename S::Vec highest;
  typename S::Vec d;
  typename S::Vec inverse;
};

template <class S, size_t kBlocks>
[[gnu::always_inline]] inline BlockUnits<S> block_units(const float* values, float limit) {
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
  return {amax, S::select_less(amax, infinity, d, S::set1(__builtin_nanf(""))),
          S::select_less(amax, infinity, inverse, zero)};
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
  const auto units = block_units<S, kBlocks>(values, kLimit<kFine>);
  alignas(64) float d[16];
  alignas(64) float inverses[16];
  S::store(d, units.d);
  S::store(inverses, units.inverse);
  CodePlane<S, kBlocks> upper, lower;
  for (size_t r = 0; r < 2 * kBlocks; ++r) {
    const float inverse = inverses[r / 2];
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
    a.scales[at + b] = d[b];
    a.scaled_sums[at + b] = d[b] * static_cast<float>(-minus_sum);
  }
}

// The first n lanes of 32 bits.
template <class S, size_t n>
[[gnu::always_inline]] inline void store_first(void* p, typename S::Vec x) {
  alignas(64) float lane[16];
  S::store(lane, x);
  __builtin_memcpy(p, lane, n * 4);
}

// Stores one plane of the codes of kBlocks blocks from `at` on, as CodePlane does, and returns
// their sums, one a lane: where an instruction set rounds to integers and sums these as it stores
// them.
template <class S, size_t kBlocks>
[[gnu::always_inline]] inline typename S::Ints store_plane(
    const typename S::Ints (&rows)[2 * kBlocks], size_t at, int8_t* codes, int32_t* minus_half_sums,
    int32_t* minus_sums) {
  const auto zero = S::ints_set1(0), half_sums = S::store_bytes(codes + at * 32, rows);
  const auto sums = S::add_neighbours(half_sums);
  store_first<S, 2 * kBlocks>(minus_half_sums + 2 * at, S::as_floats(S::sub_ints(zero, half_sums)));
  store_first<S, kBlocks>(minus_sums + at, S::as_floats(S::sub_ints(zero, sums)));
  return sums;
}

// As quantize_some, for blocks whose scales stand in a; the inverses of these, and whether all of
// them are of finite inputs.
template <class S, bool kFine, size_t kBlocks>
[[gnu::always_inline]] inline void store_codes(const Activations& a, size_t at,
                                               const float* inverses, bool all_finite) {
  typename S::Ints code[2 * kBlocks];
  for (size_t r = 0; r < 2 * kBlocks; ++r) {
    const float inverse = inverses[r / 2];
    code[r] = S::round_to_ints(S::mul(S::load(a.values + at * 32 + r * 16), S::set1(inverse)));
    if (!all_finite && !(inverse > 0.0f)) [[unlikely]]
      code[r] = S::ints_set1(0);
  }
  auto sums = S::ints_set1(0);
  if constexpr (kFine) {
    typename S::Ints upper[2 * kBlocks];
    for (size_t r = 0; r < 2 * kBlocks; ++r) {
      upper[r] = S::round_to_ints(S::mul(S::to_floats(code[r]), S::set1(0x1p-7f)));
      code[r] = S::sub_ints(code[r], S::template shift_left<7>(upper[r]));
    }
    sums = S::template shift_left<7>(
        store_plane<S, kBlocks>(upper, at, a.codes, a.minus_half_sums, a.minus_sums));
    sums = S::add_ints(sums, store_plane<S, kBlocks>(code, at, a.low_codes, a.low_minus_half_sums,
                                                     a.low_minus_sums));
  } else {
    sums = store_plane<S, kBlocks>(code, at, a.codes, a.minus_half_sums, a.minus_sums);
  }
  float d[16] = {};
  __builtin_memcpy(d, a.scales + at, kBlocks * 4);
  store_first<S, kBlocks>(a.scaled_sums + at, S::mul(S::load(d), S::to_floats(sums)));
}

// fn.operator()<kBlocks>(first) for pieces of n blocks. Eight have 16 half sums, which are found
// together.
template <class Fn>
[[gnu::always_inline]] inline void in_pieces(size_t n, const Fn& fn) {
  size_t at = 0;
  for (; at + 8 <= n; at += 8) fn.template operator()<8>(at);
  for (; at + 4 <= n; at += 4) fn.template operator()<4>(at);
  for (; at + 2 <= n; at += 2) fn.template operator()<2>(at);
  if (at < n) fn.template operator()<1>(at);
}

// In two passes, since the way from a block's inputs to the inverse of its unit is long.
template <class S, bool kFine>
inline void quantize_in_passes(const Activations& a, size_t at, size_t n) {
  constexpr size_t kMost = 64;
  const size_t end = at + n;
  for (; at < end; at += kMost) {
    const size_t few = end - at < kMost ? end - at : kMost;
    float inverses[kMost + 16];
    auto highest = S::ints_set1(0);
    in_pieces(
        few, [&]<size_t kBlocks>(size_t b) __attribute__((always_inline)) {
          const auto units = block_units<S, kBlocks>(a.values + (at + b) * 32, kLimit<kFine>);
          store_first<S, kBlocks>(a.scales + at + b, units.d);
          S::store(inverses + b, units.inverse);
          highest = S::max_ints(highest, S::as_ints(units.highest));
        });
    const bool all_finite = S::max_lane(highest) < 0x7f800000;
    in_pieces(
        few, [&]<size_t kBlocks>(size_t b) __attribute__((always_inline)) {
          store_codes<S, kFine, kBlocks>(a, at + b, inverses + b, all_finite);
        });
  }
}

template <class S, bool kFine>
inline void quantize_range(const Activations& a, size_t at, size_t n) {
  if constexpr (requires(typename S::Vec x) { S::round_to_ints(x); })
    quantize_in_passes<S, kFine>(a, at, n);
  else
    in_pieces(n, [&]<size_t kBlocks>(size_t b) { quantize_some<S, kFine, kBlocks>(a, at + b); });
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
