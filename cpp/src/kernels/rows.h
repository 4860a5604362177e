// Kernels over one token's row: quantisation, norm, rotation, activation, cache writes.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// One block of 32 inputs (numerics.md, "Activations"): the code's unit d and its inverse for codes
// up to kLimit; 0 and 0 for a block of nothing, NaN and 0 for one with an input that is not finite.
struct BlockUnit {
  float d;
  float inverse;
};

template <class S>
inline BlockUnit block_unit(typename S::Vec low, typename S::Vec high, float limit) {
  const float amax = max_lanes<S>(S::max(S::abs(low), S::abs(high)));
  const auto zero = S::set1(0.0f);
  const float poison =
      sum_lanes<S>(S::add(S::mul(low, zero), S::mul(high, zero)));  // NaN if an input is not finite
  if (poison != 0.0f) return {__builtin_nanf(""), 0.0f};
  if (!(amax >= 0x1p-100f)) return {0.0f, 0.0f};
  return {amax / limit, limit / amax};
}

// Codes of 16 inputs; all 0 where the inverse is, whatever 0 * x gives.
template <class S>
inline typename S::Vec rounded_codes(typename S::Vec x, float inverse) {
  return inverse > 0.0f ? round_even<S>(S::mul(x, S::set1(inverse))) : S::set1(0.0f);
}

// Stores one plane of a block's codes and their sums; returns the sum of all.
template <class S>
inline int32_t store_plane(typename S::Vec low, typename S::Vec high, size_t at, int8_t* codes,
                           int32_t* half_sums, int32_t* sums) {
  const auto low_codes = S::to_ints(low), high_codes = S::to_ints(high);
  S::store_as_int8(codes + at * 32, low_codes);
  S::store_as_int8(codes + at * 32 + 16, high_codes);
  half_sums[2 * at] = S::sum_ints(low_codes);
  half_sums[2 * at + 1] = S::sum_ints(high_codes);
  return sums[at] = half_sums[2 * at] + half_sums[2 * at + 1];
}

template <class S>
inline void quantize_block(const Activations& a, size_t at) {
  const auto low = S::load(a.values + at * 32), high = S::load(a.values + at * 32 + 16);
  const BlockUnit unit = block_unit<S>(low, high, 127.0f);
  const int32_t sum =
      store_plane<S>(rounded_codes<S>(low, unit.inverse), rounded_codes<S>(high, unit.inverse), at,
                     a.codes, a.half_sums, a.sums);
  a.scales[at] = unit.d;
  a.scaled_sums[at] = unit.d * static_cast<float>(sum);
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
  const int32_t upper = store_plane<S>(low_upper, high_upper, at, a.codes, a.half_sums, a.sums);
  const int32_t lower =
      store_plane<S>(S::fma(low_upper, whole, low_code), S::fma(high_upper, whole, high_code), at,
                     a.low_codes, a.low_half_sums, a.low_sums);
  a.scales[at] = unit.d;
  a.scaled_sums[at] = unit.d * static_cast<float>(128 * upper + lower);
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

template <class S>
void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
  auto squares = S::set1(0.0f);
  for (size_t i = 0; i < n; i += 16) {
    const auto v = load_partial<S>(x + i, n - i, 0.0f);
    squares = S::fma(v, v, squares);
  }
  const float mean = sum_lanes<S>(squares) / static_cast<float>(n);
  const auto inverse = S::set1(1.0f / __builtin_sqrtf(mean + eps));
  for (size_t i = 0; i < n; i += 16) {
    const auto v = S::mul(load_partial<S>(x + i, n - i, 0.0f), inverse);
    store_partial<S>(out + i, n - i, S::mul(v, load_partial<S>(weight + i, n - i, 0.0f)));
  }
}

template <class S>
void gated(Activation activation, float* gate, const float* up, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const auto g = load_partial<S>(gate + i, n - i, 0.0f);
    const auto active = activation == Activation::kSilu ? silu<S>(g) : gelu_tanh<S>(g);
    store_partial<S>(gate + i, n - i, S::mul(active, load_partial<S>(up + i, n - i, 0.0f)));
  }
}

template <class S>
void add(float* x, const float* y, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    store_partial<S>(
        x + i, n - i,
        S::add(load_partial<S>(x + i, n - i, 0.0f), load_partial<S>(y + i, n - i, 0.0f)));
}

template <class S>
void scale(float* x, float factor, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    store_partial<S>(x + i, n - i, S::mul(load_partial<S>(x + i, n - i, 0.0f), S::set1(factor)));
}

template <class S>
void softcap(float* x, float cap, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const auto v = S::div(load_partial<S>(x + i, n - i, 0.0f), S::set1(cap));
    store_partial<S>(x + i, n - i, S::mul(S::set1(cap), tanh<S>(v)));
  }
}

// Plain scalars: four rounded products and two rounded sums a pair, the same bits however the
// compiler vectorises it.
template <class S>
void rope(Rope kind, float* head, size_t n_rot, const float* cos, const float* sin) {
  const size_t half = n_rot / 2;
  const size_t step = kind == Rope::kAdjacent ? 2 : 1;
  const size_t partner = kind == Rope::kAdjacent ? 1 : half;
  for (size_t i = 0; i < half; ++i) {
    float& a = head[i * step];
    float& b = head[i * step + partner];
    const float x = a, y = b;
    a = x * cos[i] - y * sin[i];
    b = x * sin[i] + y * cos[i];
  }
}

template <class S>
void round_bf16_row(float* x, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    store_partial<S>(x + i, n - i, round_bf16<S>(load_partial<S>(x + i, n - i, 0.0f)));
}

template <class S>
void store_kv(const float* k, const float* v, size_t head_dim, size_t slot, bool clear_next,
              std::byte* k_region, std::byte* v_region) {
  const auto put = [](std::byte* at, float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const auto upper = static_cast<uint16_t>(bits >> 16);
    __builtin_memcpy(at, &upper, 2);
  };
  const bool clear = clear_next && slot % 2 == 0;
  alignas(64) float rounded[16];
  for (size_t i = 0; i < head_dim; i += 16) {
    S::store(rounded, round_bf16<S>(S::load(k + i)));
    for (size_t j = 0; j < 16; ++j)
      put(k_region + ((i + j) / 2 * kPageKeys + slot) * 4 + (i + j) % 2 * 2, rounded[j]);
    S::store(rounded, round_bf16<S>(S::load(v + i)));
    for (size_t j = 0; j < 16; ++j) {
      std::byte* at = v_region + (slot / 2 * head_dim + i + j) * 4;
      put(at + slot % 2 * 2, rounded[j]);
      if (clear) put(at + 2, 0.0f);
    }
  }
}

}  // namespace smallmind::kernel
