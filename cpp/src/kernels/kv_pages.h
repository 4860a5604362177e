// Keys and values in pages (kernels.h has the layouts): written one token at a time, and q8_0
// restored to the layout of bfloat16, a page at a time.
//
// q8_0's arithmetic: of 32 elements, d = bf16(amax / 127) and code = rne(x * fl(1 / d)); a d below
// 2^-56 is 0 with codes 0, a non-finite element makes d NaN. What is read back is bf16(d * code),
// whose product is exact in a float (8 bits by 7); nothing that is not 0 is below 2^-56. From
// there on it is treated as what bfloat16 pages hold.
#pragma once

#include "kernels/kernels.h"
#include "kernels/quantize.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// The upper half of a float, which is the value's bfloat16 where that is exact. (S in the name: see
// quant/panel.h, group_offset.)
template <class S>
inline void put_bf16(std::byte* at, float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const auto upper = static_cast<uint16_t>(bits >> 16);
  __builtin_memcpy(at, &upper, 2);
}

// Writes 16 values, exact in bfloat16, into the first or the second halves of 16 pairs. The other
// ones, which may be another thread's, are left alone, or, behind first ones, cleared. REQUIRES:
// not both is_second and clears.
template <class S>
inline void store_halves(std::byte* pairs, typename S::Vec x, bool is_second, bool clears) {
  if constexpr (requires { S::store_halves(pairs, x, is_second, clears); }) {
    S::store_halves(pairs, x, is_second, clears);
  } else {
    std::byte bits[32];
    S::store_bf16(bits, x);
    std::byte* at = pairs + (is_second ? 2 : 0);
    for (size_t j = 0; j < 16; ++j) __builtin_memcpy(at + j * 4, bits + j * 2, 2);
    for (size_t j = 0; clears && j < 16; ++j) put_bf16<S>(at + j * 4 + 2, 0.0f);
  }
}

template <class S>
void store_kv_bf16(const float* k, const float* v, size_t head_dim, size_t slot, bool clear_next,
                   std::byte* k_region, std::byte* v_region) {
  const bool clear = clear_next && slot % 2 == 0;
  std::byte rounded[32];
  for (size_t i = 0; i < head_dim; i += 16) {
    S::store_bf16(rounded, round_bf16<S>(S::load(k + i)));
    for (size_t j = 0; j < 16; j += 2)
      __builtin_memcpy(k_region + ((i + j) / 2 * kPageKeys + slot) * 4, rounded + j * 2, 4);
    store_halves<S>(v_region + (slot / 2 * head_dim + i) * 4, round_bf16<S>(S::load(v + i)),
                    slot % 2 != 0, clear);
  }
}

// The codes of 32 elements; returns d.
template <class S>
inline float code_block(const float* x, int8_t* codes) {
  alignas(64) float d[16];
  S::store(d, round_bf16<S>(block_units<S, 1>(x, kLimit<false>).d));
  const float inverse = d[0] > 0 ? 1.0f / d[0] : 0.0f;
  S::store_as_int8(codes, S::to_ints(rounded_codes<S>(S::load(x), inverse)));
  S::store_as_int8(codes + 16, S::to_ints(rounded_codes<S>(S::load(x + 16), inverse)));
  return d[0];
}

template <class S>
void store_kv_q8(const float* k, const float* v, size_t head_dim, size_t slot, bool clear_next,
                 std::byte* k_region, std::byte* v_region) {
  const bool clear = clear_next && slot % 2 == 0;
  std::byte* k_scales = k_region + kPageKeys * head_dim;
  std::byte* v_scales = v_region + kPageKeys * head_dim;
  int8_t codes[32];
  for (size_t i = 0; i < head_dim; i += 32) {
    const size_t scale_at = (i / 32 * kPageKeys + slot) * 2;
    put_bf16<S>(k_scales + scale_at, code_block<S>(k + i, codes));
    for (size_t j = 0; j < 32; ++j)
      k_region[((i + j) / 2 * kPageKeys + slot) * 2 + j % 2] = static_cast<std::byte>(codes[j]);
    put_bf16<S>(v_scales + scale_at, code_block<S>(v + i, codes));
    if (clear) put_bf16<S>(v_scales + scale_at + 2, 0.0f);
    for (size_t j = 0; j < 32; ++j) {
      std::byte* at = v_region + (slot / 2 * head_dim + i + j) * 2;
      at[slot % 2] = static_cast<std::byte>(codes[j]);
      if (clear) at[1] = std::byte{0};
    }
  }
}

template <class S>
void store_kv(KvFormat format, const float* k, const float* v, size_t head_dim, size_t slot,
              bool clear_next, std::byte* k_region, std::byte* v_region) {
  const auto store = format == KvFormat::kBf16 ? store_kv_bf16<S> : store_kv_q8<S>;
  store(k, v, head_dim, slot, clear_next, k_region, v_region);
}

// Room for the two pages of a piece in the layout of bfloat16.
struct RestoredPiece {
  alignas(64) std::byte keys[2][kPageKeys * kMaxHeadDim * 2];
  alignas(64) std::byte values[2][kPageKeys * kMaxHeadDim * 2];
};

// 16 codes become 16 bfloat16.
template <class S>
inline void restore_codes(const std::byte* codes, typename S::Vec scale, std::byte* out) {
  const auto x = S::mul(S::load_codes(codes), scale);
  if constexpr (requires { S::store_rounding_to_bf16(out, x); })
    S::store_rounding_to_bf16(out, x);
  else
    S::store_bf16(out, round_bf16<S>(x));
}

template <class S>
inline void restore_keys(const std::byte* region, size_t head_dim, std::byte* out) {
  const std::byte* scales = region + kPageKeys * head_dim;
  for (size_t block = 0; block < head_dim / 32; ++block) {
    typename S::Vec scale[4];  // of 8 keys each
    for (size_t i = 0; i < 4; ++i)
      scale[i] = S::load_bf16_twice(scales + (block * kPageKeys + i * 8) * 2);
    for (size_t pair = block * 16; pair < block * 16 + 16; ++pair)
      for (size_t i = 0; i < 4; ++i)
        restore_codes<S>(region + pair * 64 + i * 16, scale[i], out + pair * 128 + i * 32);
  }
}

template <class S>
inline void restore_values(const std::byte* region, size_t head_dim, std::byte* out) {
  const std::byte* scales = region + kPageKeys * head_dim;
  for (size_t pair = 0; pair < kPageKeys / 2; ++pair)
    for (size_t block = 0; block < head_dim / 32; ++block) {
      const auto scale = S::load_bf16_in_turn(scales + (block * kPageKeys + pair * 2) * 2);
      const size_t at = pair * head_dim + block * 32;
      for (size_t i = 0; i < 4; ++i)
        restore_codes<S>(region + at * 2 + i * 16, scale, out + at * 4 + i * 32);
    }
}

}  // namespace smallmind::kernel
