// AVX-512 with VNNI: 16 rows a strip, one 512-bit register a logical vector. Included by
// kernels_avx512.cc only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace smallmind::simd {

struct Avx512 {
  static constexpr size_t kRows = 16;
  static constexpr size_t kMaxTile = 32;  // tokens a matmul tile
  static constexpr size_t kAttentionQueries = 4;
  static constexpr bool kUnsignedDot =
      true;  // codes enter dots as unsigned bytes: signed ones are offset by 128

  using Bytes = __m512i;
  using Row = __m512;
  using Dot = __m512i;
  using Vec = __m512;    // 16 floats
  using Ints = __m512i;  // 16 int32

  // Codes.
  static Bytes load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Bytes low_nibbles(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
  static Bytes high_nibbles(Bytes x) {
    return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
  }
  static Bytes or_bytes(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
  static Bytes flip_sign_bits(Bytes x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); }
  // Moves bit kFrom of every byte to bit kTo and keeps the bits of kMask.
  template <int kFrom, int kTo, int kMask>
  static Bytes move_bits(Bytes x) {
    const Bytes mask = _mm512_set1_epi8(static_cast<char>(kMask));
    if constexpr (kFrom > kTo)
      return _mm512_and_si512(_mm512_srli_epi16(x, kFrom - kTo), mask);
    else
      return _mm512_and_si512(_mm512_slli_epi16(x, kTo - kFrom), mask);
  }

  // Dots of codes with 4 signed bytes of one token. kBits and kSigned as the format's; kStep counts
  // the groups added so far.
  static Dot dot_start() { return _mm512_setzero_si512(); }
  // minus_sum << kShift
  template <int kShift>
  static Dot dot_start_offset(const int32_t* minus_sum) {
    return _mm512_slli_epi32(_mm512_set1_epi32(*minus_sum), kShift);
  }
  template <int kBits, bool kSigned, int kStep>
  static void dot_add(Dot& dot, Bytes codes, const int8_t* inputs) {
    int32_t four;
    __builtin_memcpy(&four, inputs, 4);
    dot = _mm512_dpbusd_epi32(dot, codes, _mm512_set1_epi32(four));
  }
  static Row dot_to_row(Dot dot) { return _mm512_cvtepi32_ps(dot); }
  // 128 * high + low
  static Dot dot_planes(Dot high, Dot low) {
    return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low);
  }

  // Rows.
  static Row load_half(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Row load_bf16(const std::byte* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static Row load_row(const std::byte* p) { return _mm512_loadu_ps(p); }
  static Row load_u8(const std::byte* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static Row load_i8(const std::byte* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static Row row_set1(float x) { return _mm512_set1_ps(x); }
  static void store_row(float* p, Row x) { _mm512_storeu_ps(p, x); }

  // Vectors (a Row is a Vec here).
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static Vec set1(float x) { return _mm512_set1_ps(x); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // a > b ? a : b
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }  // a < b ? a : b
  static Vec abs(Vec a) { return _mm512_abs_ps(a); }
  static Vec negate(Vec a) {
    return _mm512_castsi512_ps(
        _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
  }
  // a < b ? x : y, lane by lane; a NaN compares false.
  static Vec select_less(Vec a, Vec b, Vec x, Vec y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  // The first n lanes of x, the others of y.
  static Vec first_lanes(size_t n, Vec x, Vec y) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>((1u << n) - 1u), y, x);
  }

  static Ints as_ints(Vec x) { return _mm512_castps_si512(x); }
  static Vec as_floats(Ints x) { return _mm512_castsi512_ps(x); }
  static Ints ints_set1(int32_t x) { return _mm512_set1_epi32(x); }
  static Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints and_ints(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  template <int kShift>
  static Ints shift_left(Ints x) {
    return _mm512_slli_epi32(x, kShift);
  }
  template <int kShift>
  static Ints shift_right(Ints x) {
    return _mm512_srli_epi32(x, kShift);
  }
  static Ints to_ints(Vec x) { return _mm512_cvtps_epi32(x); }  // REQUIRES: integral, small
  static void store_as_int8(int8_t* p, Ints x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  static int32_t sum_ints(Ints x) { return _mm512_reduce_add_epi32(x); }
  static Ints max_ints(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
  static int32_t max_lane(Ints x) { return _mm512_reduce_max_epi32(x); }

  // 32 bfloat16: the even ones and the odd ones, as floats.
  static Vec load_even_bf16(const std::byte* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
  }
  static Vec load_odd_bf16(const std::byte* p) {
    return _mm512_castsi512_ps(_mm512_and_si512(
        _mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
  }
};

}  // namespace smallmind::simd
