// AVX2 with FMA and F16C: 8 rows a strip, two 256-bit registers a logical vector. Included by
// kernels_avx2.cc only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace smallmind::simd {

struct Avx2Fine;
struct Avx2Coarse;

struct Avx2 {
  static constexpr size_t kRows = 8;
  static constexpr size_t kMaxTile = 32;           // tokens that a product may take as one tile
  static constexpr size_t kTileOfMany = kMaxTile;  // those of more tokens
  // Both strips of a panel at once: memory waits for no second pass over it, the inputs' broadcasts
  // serve both, and the codes that are loaded serve kTogether tokens.
  static constexpr size_t kTwoStripsFrom = 1;  // tokens
  static constexpr size_t kTogether = 4;
  static constexpr size_t kFloatTile = 4;
  static constexpr size_t kBlockQueries = 5;                 // of attention
  static constexpr size_t kBlockSums = 6;                    // of a block, vectors in registers
  static constexpr bool kRepeatsPairs = false;               // attention.h, add_pair
  static constexpr size_t kFetchedWithWeights = 3;           // lines of a page: attention.h, weigh
  static constexpr size_t kFetchedAhead = size_t{32} << 10;  // bytes: attention.h, fetches_late
  static constexpr bool kFetchesNear = true;                 // matmul.h, in_tiles
  static constexpr bool kUnsignedDot =
      false;  // |code| as unsigned byte, the code's sign moved to the input

  using SignedFine = Avx2Fine;   // what computes signed codes times fine inputs
  using Coarse = Avx2Coarse;     // what computes coarse products
  using Inputs = const int8_t*;  // the codes of a block of one token
  using Bytes = __m256i;
  using Row = __m256;
  // 16-bit partial sums of a few groups, and their 32-bit total.
  struct Dot {
    __m256i total;
    __m256i partial;
  };
  struct Vec {
    __m256 low, high;
  };
  struct Ints {
    __m256i low, high;
  };

  static Bytes load_bytes(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Bytes low_nibbles(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
  static Bytes high_nibbles(Bytes x) {
    return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15));
  }
  static Bytes or_bytes(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
  static Bytes flip_sign_bits(Bytes x) { return x; }
  template <int kFrom, int kTo, int kMask>
  static Bytes move_bits(Bytes x) {
    const Bytes mask = _mm256_set1_epi8(static_cast<char>(kMask));
    if constexpr (kFrom > kTo)
      return _mm256_and_si256(_mm256_srli_epi16(x, kFrom - kTo), mask);
    else
      return _mm256_and_si256(_mm256_slli_epi16(x, kTo - kFrom), mask);
  }

  static Inputs load_inputs(const int8_t* p) { return p; }
  static Dot dot_start() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  template <int kShift>
  static Dot dot_start_offset(const int32_t* minus_sum) {
    return {_mm256_slli_epi32(_mm256_set1_epi32(*minus_sum), kShift), _mm256_setzero_si256()};
  }
  // Groups whose 16-bit pair sums fit together: 15 * 127 * 2 * 8, 31 * 127 * 2 * 4, 63 * 127 * 2 *
  // 2 and 128 * 127 * 2 are below 32,768.
  static constexpr int groups_per_partial(int bits) {
    return bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
  }
  template <int kBits, bool kSigned, int kStep>
  static void dot_add(Dot& dot, Bytes codes, Inputs inputs) {
    add_group<groups_per_partial(kBits), kSigned>(dot, codes, load_group(inputs, kStep), kStep);
  }
  // The same in two steps, for two strips (matmul.h, add_part).
  static __m256i load_group(Inputs inputs, size_t group) {
    int32_t four;
    __builtin_memcpy(&four, inputs + 4 * group, 4);
    return _mm256_set1_epi32(four);
  }
  template <int kBits, bool kSigned>
  static void dot_add_group(Dot& dot, Bytes codes, __m256i inputs, size_t group) {
    add_group<groups_per_partial(kBits), kSigned>(dot, codes, inputs, group);
  }
  // kGroups groups' 16-bit sums are widened together.
  template <int kGroups, bool kSigned>
  static void add_group(Dot& dot, Bytes codes, __m256i inputs, size_t group) {
    const __m256i sums = pair_sums<kSigned>(codes, inputs);
    dot.partial = group % kGroups == 0 ? sums : keep(_mm256_add_epi16(dot.partial, sums));
    if (group % kGroups == kGroups - 1)
      dot.total =
          keep(_mm256_add_epi32(dot.total, _mm256_madd_epi16(dot.partial, _mm256_set1_epi16(1))));
  }
  template <bool kSigned>
  static __m256i pair_sums(Bytes codes, __m256i inputs) {
    if constexpr (kSigned)
      return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(inputs, codes));
    else
      return _mm256_maddubs_epi16(codes, inputs);
  }
  // x, computed here and in a register: g++ would load codes anew for each of several tokens, and
  // add sums in a tree, for whose leaves there are no registers.
  static __m256i keep(__m256i x) {
    asm("" : "+x"(x));
    return x;
  }
  // Adds the squares of (codes - kOffset), which are signed bytes.
  template <int kOffset>
  static void add_squares(Dot& dot, Bytes codes) {
    const __m256i x = _mm256_sub_epi8(codes, _mm256_set1_epi8(static_cast<char>(kOffset)));
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
    const __m256i odd = _mm256_srai_epi16(x, 8);
    dot.total = _mm256_add_epi32(dot.total, _mm256_madd_epi16(even, even));
    dot.total = _mm256_add_epi32(dot.total, _mm256_madd_epi16(odd, odd));
  }
  // 128 * high + low
  static Dot dot_planes(const Dot& high, const Dot& low) {
    return {_mm256_add_epi32(_mm256_slli_epi32(high.total, 7), low.total), low.partial};
  }
  static Row dot_to_row(const Dot& dot) { return _mm256_cvtepi32_ps(dot.total); }

  static Row load_half(const std::byte* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Row load_bf16(const std::byte* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static Row load_row(const std::byte* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
  static Row load_u8(const std::byte* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static Row load_i8(const std::byte* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static Row row_set1(float x) { return _mm256_set1_ps(x); }
  static void store_row(float* p, Row x) { _mm256_storeu_ps(p, x); }
  static Row mul(Row a, Row b) { return _mm256_mul_ps(a, b); }
  static Row add(Row a, Row b) { return _mm256_add_ps(a, b); }
  static Row fma(Row a, Row b, Row c) { return _mm256_fmadd_ps(a, b, c); }
  static Row negate(Row a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }

  static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, Vec x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Vec add(Vec a, Vec b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static Vec sub(Vec a, Vec b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static Vec mul(Vec a, Vec b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Vec div(Vec a, Vec b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Vec max(Vec a, Vec b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static Vec min(Vec a, Vec b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static Vec abs(Vec a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
  }
  static Vec negate(Vec a) { return {negate(a.low), negate(a.high)}; }
  static Vec select_less(Vec a, Vec b, Vec x, Vec y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
  }
  static Vec first_lanes(size_t n, Vec x, Vec y) {
    const __m256i count = _mm256_set1_epi32(static_cast<int32_t>(n));
    const __m256i low = _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i high = _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
    return {_mm256_blendv_ps(y.low, x.low, _mm256_castsi256_ps(low)),
            _mm256_blendv_ps(y.high, x.high, _mm256_castsi256_ps(high))};
  }

  static Ints as_ints(Vec x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
  static Vec as_floats(Ints x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }
  static Ints ints_set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static Ints add_ints(Ints a, Ints b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  static Ints and_ints(Ints a, Ints b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
  }
  template <int kShift>
  static Ints shift_left(Ints x) {
    return {_mm256_slli_epi32(x.low, kShift), _mm256_slli_epi32(x.high, kShift)};
  }
  template <int kShift>
  static Ints shift_right(Ints x) {
    return {_mm256_srli_epi32(x.low, kShift), _mm256_srli_epi32(x.high, kShift)};
  }
  static Vec times_power_of_2(Vec x, Vec n) {
    return mul(x, as_floats(shift_left<23>(add_ints(to_ints(n), ints_set1(127)))));
  }
  static Ints to_ints(Vec x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
  static void store_as_int8(int8_t* p, Ints x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  static Ints max_ints(Ints a, Ints b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
  }
  static int32_t max_lane(Ints x) {
    const __m256i eight = _mm256_max_epi32(x.low, x.high);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    return _mm_cvtsi128_si32(four);
  }

  struct Pairs {
    Vec even, odd;
  };
  using Element = float;
  static Pairs load_pairs(const std::byte* p) {
    const Ints bits = load_ints(p);
    return {as_floats(shift_left<16>(bits)),
            as_floats(and_ints(bits, ints_set1(static_cast<int32_t>(0xffff0000u))))};
  }
  static Pairs repeat_pair(const Element* p) { return {set1(p[0]), set1(p[1])}; }
  static Pairs even_only(const Pairs& x) { return {x.even, set1(0.0f)}; }
  static Pairs odd_only(const Pairs& x) { return {set1(0.0f), x.odd}; }
  static Vec dot_pairs(const Pairs& a, const Pairs& b, Vec acc) {
    return fma(a.even, b.even, fma(a.odd, b.odd, acc));
  }
  static void store_elements(Element* p, Vec x) { store(p, x); }
  template <class Fn>
  static float fold_lanes(Vec x, const Fn& fn) {
    const auto both = [](__m256 y) { return Vec{y, y}; };  // fn takes whole vectors
    const __m256 eight = fn(both(x.low), both(x.high)).low;
    const __m256 four = fn(both(eight), both(_mm256_permute2f128_ps(eight, eight, 1))).low;
    const __m256 two = fn(both(four), both(_mm256_permute_ps(four, 0x4e))).low;
    return _mm256_cvtss_f32(fn(both(two), both(_mm256_permute_ps(two, 0xb1))).low);
  }
  static Vec load_codes(const std::byte* p) { return {load_i8(p), load_i8(p + 8)}; }
  static void store_bf16(std::byte* p, Vec x) {
    const Ints upper = shift_right<16>(as_ints(x));
    const __m256i words = _mm256_packus_epi32(upper.low, upper.high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
  }
  static Vec load_bf16_twice(const std::byte* p) { return {four_twice(p), four_twice(p + 8)}; }
  static Vec load_bf16_in_turn(const std::byte* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    const __m256i bits = _mm256_set1_epi32(pair);
    const __m256i odd = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
    const __m256 x =
        _mm256_castsi256_ps(_mm256_blend_epi32(_mm256_slli_epi32(bits, 16), odd, 0xaa));
    return {x, x};
  }

 private:
  static __m256 four_twice(const std::byte* p) {
    const __m256i wide =
        _mm256_cvtepu16_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(
        _mm256_or_si256(_mm256_slli_epi64(wide, 48), _mm256_slli_epi64(wide, 16)));
  }
  static Ints load_ints(const std::byte* p) { return {load_bytes(p), load_bytes(p + 32)}; }
};

// Signed codes and fine inputs in 16 bits: half the instructions of two planes of bytes, whose
// signs move from code to input. Sums of 32 products of 128 and 16,256 fit 32 bits.
struct Avx2Fine : Avx2 {
  // Columns 0 and 2 of a group, and 1 and 3: of 8 rows each, or of one token.
  struct Bytes {
    __m256i even, odd;
  };
  using Group = Bytes;
  // A block of one token: 16 columns that stand at even places, then the others.
  struct Inputs {
    alignas(32) int16_t columns[32];
  };
  using Dot = __m256i;

  static Bytes load_bytes(const void* p) {
    const __m256i x = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
  }
  // 128 * upper + lower
  static void join_inputs(const int8_t* upper, const int8_t* lower, Inputs& to) {
    const Bytes x = load_bytes(upper), y = load_bytes(lower);
    store(to.columns, _mm256_add_epi16(_mm256_slli_epi16(x.even, 7), y.even));
    store(to.columns + 16, _mm256_add_epi16(_mm256_slli_epi16(x.odd, 7), y.odd));
  }
  static Group load_group(const Inputs& inputs, size_t group) {
    const auto* bytes = reinterpret_cast<const int8_t*>(inputs.columns);
    return {Avx2::load_group(bytes, group), Avx2::load_group(bytes + 32, group)};
  }
  static Dot dot_start() { return _mm256_setzero_si256(); }
  static void dot_add_group(Dot& dot, const Bytes& codes, const Group& inputs) {
    dot = keep(_mm256_add_epi32(dot, _mm256_madd_epi16(codes.even, inputs.even)));
    dot = keep(_mm256_add_epi32(dot, _mm256_madd_epi16(codes.odd, inputs.odd)));
  }
  using Avx2::keep;
  static Bytes keep(const Bytes& x) { return {keep(x.even), keep(x.odd)}; }
  static Row dot_to_row(Dot dot) { return _mm256_cvtepi32_ps(dot); }

 private:
  static void store(int16_t* to, __m256i x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), x);
  }
};

// Coarse products, whose inputs may be as small as the set likes: codes enter as unsigned bytes, no
// sign is moved, and two strips have everything in common.
struct Avx2Coarse : Avx2 {
  static constexpr int kInputLimit = 64;
  static constexpr bool kUnsignedDot = true;

  static Bytes flip_sign_bits(Bytes x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
  // 31 * 64 * 2 * 8, 63 * 64 * 2 * 4 and 255 * 64 * 2 are below 32,768.
  static constexpr int groups_per_partial(int bits) { return bits <= 5 ? 8 : bits == 6 ? 4 : 1; }
  template <int kBits, bool kSigned, int kStep>
  static void dot_add(Dot& dot, Bytes codes, Inputs inputs) = delete;  // of one strip: never taken
  template <int kBits, bool kSigned>
  static void dot_add_group(Dot& dot, Bytes codes, __m256i inputs, size_t group) {
    static_assert(!kSigned || kBits == 8);
    add_group<groups_per_partial(kBits), false>(dot, codes, inputs, group);
  }
};

}  // namespace smallmind::simd
