// AVX-512 with bfloat16 dots: what attention does otherwise on processors that have them, with the
// same bits; and products in the shapes that AMD's Zen 4 and 5 are best at. Included by the sources
// of AVX-512 with it only.
#pragma once

#include "kernels/simd_avx512.h"

namespace smallmind::simd {

struct Avx512Bf16 : Avx512 {
  // Products, where dots have units that unpacking and additions do not use.
  static constexpr size_t kMaxTile = 16;
  static constexpr size_t kTileOfMany = 12;    // measured: 1 to 5 % faster than 16 or 24
  static constexpr size_t kTileOfPieces = 24;  // matmul.h, TileTokens: 1.02 to 1.05 times
  static constexpr size_t kTogether = 1;
  static constexpr bool kFetchesNear = true;

  // Attention.
  static constexpr size_t kBlockQueries = 10;
  static constexpr size_t kBlockSums = 20;
  static constexpr bool kRepeatsPairs = false;
  using Pairs = __m512bh;
  using Element = uint16_t;
  static Pairs load_pairs(const std::byte* p) { return (Pairs)_mm512_loadu_si512(p); }
  static Pairs repeat_pair(const Element* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return (Pairs)_mm512_set1_epi32(pair);
  }
  static Pairs even_only(Pairs x) {
    return (Pairs)_mm512_and_si512((Ints)x, _mm512_set1_epi32(0xffff));
  }
  static Pairs odd_only(Pairs x) {
    return (Pairs)_mm512_andnot_si512(_mm512_set1_epi32(0xffff), (Ints)x);
  }
  // The instruction takes the odd products first; it reads subnormals as 0 and writes them as 0,
  // which never meets one: no element is below 2^-56 (numerics.md, "Attention").
  static Vec dot_pairs(Pairs a, Pairs b, Vec acc) { return _mm512_dpbf16_ps(acc, a, b); }
  static void store_elements(Element* p, Vec x) { store_bf16(reinterpret_cast<std::byte*>(p), x); }

  // REQUIRES: no x < 0.
  static Vec store_rounded(Element* p, Vec x) {
    const __m256i rounded = rounded_bits(x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
    return widen_bits(rounded);
  }
  // The same in two steps: the 16 bfloat16, and what they are as floats.
  static __m256i rounded_bits(Vec x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, set1(0x1p-56f), _CMP_NLT_UQ);
    return (__m256i)_mm512_maskz_cvtneps_pbh(kept, x);
  }
  static Vec widen_bits(__m256i bits) {
    return as_floats(shift_left<16>(_mm512_cvtepu16_epi32(bits)));
  }
  static void store_rounding_to_bf16(std::byte* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
};

}  // namespace smallmind::simd
