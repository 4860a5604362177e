// AVX-512 with VNNI: 16 rows a strip, one 512-bit register a logical vector. Included by the
// sources of AVX-512 only, kernels_avx512*.cc.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace smallmind::simd {

// Tuned for Intel's processors, where every operation on 512 bits takes one of two units and memory
// is far away; simd_avx512_bf16.h has what differs on AMD's.
struct Avx512 {
  static constexpr size_t kRows = 16;
  static constexpr size_t kMaxTile = 24;
  static constexpr size_t kTileOfMany = kMaxTile;  // unpacking takes the units of the dots
  // Products take two strips at once from so many tokens on (0: never): here those of two panels.
  // Fewer wait for memory, which is read faster as one stream than as two.
  static constexpr size_t kTwoStripsFrom = 8;
  static constexpr size_t kTogether = 4;       // tokens that pass over two strips at once
  static constexpr size_t kFloatTile = 8;      // of float weights: sums in registers
  static constexpr size_t kBlockQueries = 12;  // of attention
  static constexpr size_t kBlockSums = 24;     // of a block, vectors in registers
  static constexpr bool kRepeatsPairs = true;  // attention.h, add_pair
  // Tried with AVX2 alone so far: attention.h, weigh, fetches_late.
  static constexpr size_t kFetchedWithWeights = 0;
  static constexpr size_t kFetchedAhead = SIZE_MAX;
  // matmul.h, in_tiles: the first-level cache awaits only 16 lines.
  static constexpr bool kFetchesNear = false;
  static constexpr bool kUnsignedDot =
      true;  // codes enter dots as unsigned bytes: signed ones are offset by 128

  using Inputs = const int8_t*;  // the codes of a block of one token
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

  // Dots of a group's codes with its 4 signed bytes of one token. kBits and kSigned as the
  // format's; kStep is the group.
  static Inputs load_inputs(const int8_t* p) { return p; }
  static Dot dot_start() { return _mm512_setzero_si512(); }
  // minus_sum << kShift
  template <int kShift>
  static Dot dot_start_offset(const int32_t* minus_sum) {
    return _mm512_slli_epi32(_mm512_set1_epi32(*minus_sum), kShift);
  }
  template <int kBits, bool kSigned, int kStep>
  static void dot_add(Dot& dot, Bytes codes, Inputs inputs) {
    // As _mm512_dpbusd_epi32 with the four in all lanes, which g++ 12 would load by an instruction
    // of its own.
    using Four [[gnu::may_alias, gnu::aligned(1)]] = int32_t;
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(dot)
        : "v"(codes), "m"(*reinterpret_cast<const Four*>(inputs + 4 * kStep)));
  }
  // The same in two steps, for two panels' codes: beside two dots a cycle there are two loads.
  static Bytes load_group(Inputs inputs, size_t group) {
    int32_t four;
    __builtin_memcpy(&four, inputs + 4 * group, 4);
    return _mm512_set1_epi32(four);
  }
  template <int kBits, bool kSigned>
  static void dot_add_group(Dot& dot, Bytes codes, Bytes inputs, size_t) {
    dot = _mm512_dpbusd_epi32(dot, codes, inputs);
  }
  static Bytes keep(Bytes codes) { return codes; }
  // Adds the squares of (codes - kOffset), which are signed bytes.
  template <int kOffset>
  static void add_squares(Dot& dot, Bytes codes) {
    const Bytes x = _mm512_sub_epi8(codes, _mm512_set1_epi8(static_cast<char>(kOffset)));
    const Bytes even = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8);
    const Bytes odd = _mm512_srai_epi16(x, 8);
    dot = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(dot, even, even), odd, odd);
  }
  // (That it is here makes matmul.h take a block's dot in two halves, unless kTogether tokens take
  // turns: four dots in a row wait for each other, eight would for twice as long.)
  static Dot add_dots(Dot a, Dot b) { return _mm512_add_epi32(a, b); }
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
  static Vec round_even(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
  // x * 2^n. REQUIRES: n integral in [-126, 127] or NaN, the result normal.
  static Vec times_power_of_2(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
  static Ints to_ints(Vec x) { return _mm512_cvtps_epi32(x); }  // REQUIRES: integral, small
  static void store_as_int8(int8_t* p, Ints x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  // To the nearest, ties to even. NaN gives INT32_MIN.
  static Ints round_to_ints(Vec x) {
    return _mm512_cvt_roundps_epi32(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vec to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
  static Ints sub_ints(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  // Lanes 2 i and 2 i + 1 in lane i; the upper half is anything.
  static Ints add_neighbours(Ints x) {
    return _mm512_castsi256_si512(
        _mm512_cvtepi64_epi32(_mm512_add_epi32(x, _mm512_srli_epi64(x, 32))));
  }
  // Stores rows of 16 bytes, one behind the other, that come as integers within [-127, 127]. The
  // sum of row r's in lane r; lanes behind the last row are 0.
  template <size_t kRows_>
  static Ints store_bytes(int8_t* p, const Ints (&rows)[kRows_]) {
    static_assert(kRows_ % 4 == 0 || kRows_ == 2);
    const Ints transposed = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    Ints sums[4] = {};  // of four bytes
    for (size_t i = 0; i < kRows_; i += 4) {
      const Ints low = _mm512_packs_epi32(rows[i], rows[i + 1]);
      const Ints high =
          kRows_ == 2 ? Ints{} : _mm512_packs_epi32(rows[(i + 2) % kRows_], rows[(i + 3) % kRows_]);
      const Bytes bytes = _mm512_permutexvar_epi32(transposed, _mm512_packs_epi16(low, high));
      if constexpr (kRows_ == 2)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(bytes));
      else
        _mm512_storeu_si512(p + i * 16, bytes);
      sums[i / 4] = _mm512_dpbusd_epi32(Ints{}, _mm512_set1_epi8(1), bytes);
    }
    const auto two = [](Ints a, Ints b) {
      return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    const Ints low = two(sums[0], sums[1]), high = two(sums[2], sums[3]);
    return _mm512_permutexvar_epi32(transposed, _mm512_add_epi32(_mm512_unpacklo_epi64(low, high),
                                                                 _mm512_unpackhi_epi64(low, high)));
  }
  static Ints max_ints(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
  static int32_t max_lane(Ints x) { return _mm512_reduce_max_epi32(x); }

  // Pairs of bfloat16 (kernels/attention.h), here as their even and their odd elements.
  struct Pairs {
    Vec even, odd;
  };
  using Element = float;
  static Pairs load_pairs(const std::byte* p) {
    const Ints bits = _mm512_loadu_si512(p);
    return {as_floats(shift_left<16>(bits)),
            as_floats(and_ints(bits, ints_set1(static_cast<int32_t>(0xffff0000u))))};
  }
  static Pairs repeat_pair(const Element* p) { return {set1(p[0]), set1(p[1])}; }
  static Pairs even_only(Pairs x) { return {x.even, set1(0.0f)}; }
  static Pairs odd_only(Pairs x) { return {set1(0.0f), x.odd}; }
  static Vec dot_pairs(Pairs a, Pairs b, Vec acc) {
    return fma(a.even, b.even, fma(a.odd, b.odd, acc));
  }
  static void store_elements(Element* p, Vec x) { store(p, x); }
  // REQUIRES: no x < 0. As round_bf16: what is below 2^-56 becomes 0, a NaN stays one (another one,
  // which the addition does not carry into the sign).
  static Vec store_rounded(Element* p, Vec x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, set1(0x1p-56f), _CMP_NLT_UQ);
    const Ints bits = _mm512_min_epu32(as_ints(x), ints_set1(0x7fff0000));
    const __mmask16 odd = _mm512_test_epi32_mask(bits, ints_set1(0x10000));
    const Ints half = add_ints(bits, ints_set1(0x7fff));
    const Ints up = _mm512_mask_add_epi32(half, odd, half, ints_set1(1));
    const Vec rounded =
        as_floats(_mm512_maskz_and_epi32(kept, up, ints_set1(static_cast<int32_t>(0xffff0000u))));
    store(p, rounded);
    return rounded;
  }

  // Lanes i and i + 8, then + 4, + 2, + 1.
  template <class Fn>
  static float fold_lanes(Vec x, const Fn& fn) {
    const Vec eight = fn(x, _mm512_shuffle_f32x4(x, x, 0x4e));
    const Vec four = fn(eight, _mm512_shuffle_f32x4(eight, eight, 0xb1));
    const Vec two = fn(four, _mm512_permute_ps(four, 0x4e));
    return _mm512_cvtss_f32(fn(two, _mm512_permute_ps(two, 0xb1)));
  }
  // The same of up to 16 rows at once: at each step two vectors become one, until lane q holds row
  // q's.
  template <size_t kRows_, class Fn>
  static Vec fold_rows(const Vec (&rows)[kRows_], const Fn& fn) {
    constexpr size_t kQuads = (kRows_ + 3) / 4;
    static_assert(kQuads <= 4);
    Vec quad[4];  // quarter g holds 4 partial results of row 4 i + g
    for (size_t i = 0; i < kQuads; ++i) {
      const auto row = [&](size_t g) { return rows[4 * i + g < kRows_ ? 4 * i + g : 0]; };
      const auto pair = [&](Vec a, Vec b) {
        return fn(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
      };
      const Vec low = pair(row(0), row(1)), high = pair(row(2), row(3));
      quad[i] = fn(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
    }
    for (size_t i = kQuads; i < 4; ++i) quad[i] = quad[i % kQuads];
    const auto two = [&](Vec a, Vec b) {
      return fn(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    };
    const Vec low = two(quad[0], quad[1]), high = kQuads > 2 ? two(quad[2], quad[3]) : low;
    const Vec one = fn(_mm512_shuffle_ps(low, high, 0x88), _mm512_shuffle_ps(low, high, 0xdd));
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), one);
  }
  static Vec load_codes(const std::byte* p) { return load_i8(p); }  // 16 int8
  // 16 values, each exact in bfloat16.
  static void store_bf16(std::byte* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(as_ints(x), 16)));
  }
  // kv_pages.h, store_halves. (A masked store does not touch what it leaves out.)
  static void store_halves(std::byte* pairs, Vec x, bool is_second, bool clears) {
    const Ints bits = is_second ? as_ints(x) : shift_right<16>(as_ints(x));
    const __mmask32 halves = is_second ? 0xaaaaaaaau : clears ? 0xffffffffu : 0x55555555u;
    _mm512_mask_storeu_epi16(pairs, halves, bits);
  }
  // 8 bfloat16, each twice.
  static Vec load_bf16_twice(const std::byte* p) {
    const Ints wide = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return as_floats(_mm512_or_si512(_mm512_slli_epi64(wide, 48), _mm512_slli_epi64(wide, 16)));
  }
  // 2 bfloat16 in turn.
  static Vec load_bf16_in_turn(const std::byte* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    const Ints bits = _mm512_set1_epi32(pair);
    return as_floats(_mm512_mask_slli_epi32(
        and_ints(bits, ints_set1(static_cast<int32_t>(0xffff0000u))), 0x5555, bits, 16));
  }
};

}  // namespace smallmind::simd
