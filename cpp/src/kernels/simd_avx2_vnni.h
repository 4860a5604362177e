// AVX2 with AVX-VNNI: byte dots straight into 32 bits, as AVX-512 has them, 8 rows a strip.
// Included by kernels_avx2_vnni.cc only.
#pragma once

#include "kernels/simd_avx2.h"

namespace smallmind::simd {

struct Avx2Vnni : Avx2 {
  static constexpr bool kUnsignedDot = true;
  using SignedFine = Avx2Vnni;
  using Coarse = Avx2Vnni;
  using Dot = __m256i;

  static Bytes flip_sign_bits(Bytes x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
  static Dot dot_start() { return _mm256_setzero_si256(); }
  template <int kShift>
  static Dot dot_start_offset(const int32_t* minus_sum) {
    return _mm256_slli_epi32(_mm256_set1_epi32(*minus_sum), kShift);
  }
  // (Always inlined: the test of the same code with AVX-512's encoding must not share it.)
  template <int kBits, bool kSigned, int kStep>
  [[gnu::always_inline]] static void dot_add(Dot& dot, Bytes codes, Inputs inputs) {
    dot = _mm256_dpbusd_epi32(dot, codes, load_group(inputs, kStep));
  }
  template <int kBits, bool kSigned>
  [[gnu::always_inline]] static void dot_add_group(Dot& dot, Bytes codes, __m256i inputs, size_t) {
    dot = _mm256_dpbusd_epi32(dot, codes, inputs);
  }
  // 128 * high + low
  static Dot dot_planes(Dot high, Dot low) {
    return _mm256_add_epi32(_mm256_slli_epi32(high, 7), low);
  }
  static Row dot_to_row(Dot dot) { return _mm256_cvtepi32_ps(dot); }
};

}  // namespace smallmind::simd
