// Portable: 64-byte vectors of the compiler's vector extension, which it maps to what the baseline
// has. Included by kernels_generic.cc only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smallmind::simd {

struct Generic {
  static constexpr size_t kRows = 16;
  static constexpr size_t kMaxTile = 4;
  static constexpr size_t kTileOfMany = kMaxTile;
  static constexpr size_t kTwoStripsFrom = 0;
  static constexpr size_t kTogether = 1;
  static constexpr size_t kFloatTile = 4;
  static constexpr size_t kBlockQueries = 2;    // of attention
  static constexpr size_t kBlockSums = 4;       // of a block, vectors in registers
  static constexpr bool kRepeatsPairs = false;  // attention.h, add_pair
  static constexpr size_t kFetchedWithWeights = 0;
  static constexpr size_t kFetchedAhead = SIZE_MAX;
  static constexpr bool kFetchesNear = true;  // matmul.h, in_tiles
  static constexpr bool kUnsignedDot = false;

  typedef uint16_t Words __attribute__((vector_size(64)));
  typedef int16_t SignedWords __attribute__((vector_size(64)));
  typedef uint8_t Bytes64 __attribute__((vector_size(64)));
  typedef float Vec __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64)));
  typedef uint32_t Unsigned __attribute__((vector_size(64)));
  typedef uint16_t Words16 __attribute__((vector_size(32)));
  typedef uint8_t Bytes16 __attribute__((vector_size(16)));
  typedef int8_t SignedBytes16 __attribute__((vector_size(16)));
  using Inputs = const int8_t*;  // the codes of a block of one token
  using Bytes = Words;
  using Row = Vec;
  using Dot = Ints;

  template <class T>
  static T load_any(const void* p) {
    T value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
  }
  static Ints ints_set1(int32_t x) { return Ints{} + x; }

  static Bytes load_bytes(const std::byte* p) { return load_any<Bytes>(p); }
  static Bytes low_nibbles(const Bytes& x) { return x & uint16_t{0x0f0f}; }
  static Bytes high_nibbles(const Bytes& x) { return (x >> 4) & uint16_t{0x0f0f}; }
  static Bytes or_bytes(const Bytes& a, const Bytes& b) { return a | b; }
  static Bytes flip_sign_bits(const Bytes& x) { return x; }
  template <int kFrom, int kTo, int kMask>
  static Bytes move_bits(const Bytes& x) {
    constexpr uint16_t kBoth = kMask * 0x0101;
    if constexpr (kFrom > kTo)
      return (x >> (kFrom - kTo)) & kBoth;
    else
      return (x << (kTo - kFrom)) & kBoth;
  }

  static Inputs load_inputs(const int8_t* p) { return p; }
  static Dot dot_start() { return Dot{}; }
  template <int kShift>
  static Dot dot_start_offset(const int32_t* minus_sum) {
    return ints_set1(*minus_sum * (1 << kShift));
  }
  // Products of a code and an input fit 16 bits, and so does the sum of two: 2 * 128 * 127 <
  // 32,768.
  template <int kBits, bool kSigned, int kStep>
  static void dot_add(Dot& dot, const Bytes& codes, Inputs inputs) {
    const int8_t* four = inputs + 4 * kStep;
    const uint32_t even_pair = static_cast<uint16_t>(four[0]) |
                               static_cast<uint32_t>(static_cast<uint16_t>(four[2])) << 16;
    const uint32_t odd_pair = static_cast<uint16_t>(four[1]) |
                              static_cast<uint32_t>(static_cast<uint16_t>(four[3])) << 16;
    const SignedWords even_inputs = (SignedWords)(Unsigned{} + even_pair);
    const SignedWords odd_inputs = (SignedWords)(Unsigned{} + odd_pair);
    SignedWords even, odd;
    if constexpr (kSigned) {
      even = (SignedWords)(codes << 8) >> 8;
      odd = (SignedWords)codes >> 8;
    } else {
      even = (SignedWords)(codes & uint16_t{0xff});
      odd = (SignedWords)(codes >> 8);
    }
    const Ints sums = (Ints)(even * even_inputs + odd * odd_inputs);
    dot += ((Ints)((Unsigned)sums << 16) >> 16) + (sums >> 16);
  }
  // Adds the squares of (codes - kOffset), which are signed bytes. Two squares fit 16 bits.
  template <int kOffset>
  static void add_squares(Dot& dot, const Bytes& codes) {
    const Words x = (Words)((Bytes64)codes - uint8_t{kOffset});
    const SignedWords even = (SignedWords)(x << 8) >> 8, odd = (SignedWords)x >> 8;
    const Unsigned sums = (Unsigned)((Words)(even * even) + (Words)(odd * odd));
    dot += (Ints)((sums & 0xffffu) + (sums >> 16));
  }
  // 128 * high + low
  static Dot dot_planes(const Dot& high, const Dot& low) { return high * 128 + low; }
  static Row dot_to_row(const Dot& dot) { return __builtin_convertvector(dot, Vec); }

  static Row load_half(const std::byte* p) {
    const Ints bits = __builtin_convertvector(load_any<Words16>(p), Ints);
    const Ints magnitude = bits & 0x7fff;
    const Ints normal = (magnitude << 13) + 0x38000000;
    const Ints special = ((magnitude & 0x3ff) << 13) | 0x7f800000;  // infinity, NaN
    const Ints tiny =
        (Ints)(__builtin_convertvector(magnitude, Vec) * set1(0x1p-24f));  // subnormal, 0
    const Ints is_special = magnitude >= 0x7c00, is_tiny = magnitude < 0x0400;
    const Ints value =
        (normal & ~(is_special | is_tiny)) | (special & is_special) | (tiny & is_tiny);
    return (Row)(value | (Ints)((Unsigned)(bits & 0x8000) << 16));
  }
  static Row load_bf16(const std::byte* p) {
    return (Row)(__builtin_convertvector(load_any<Words16>(p), Unsigned) << 16);
  }
  static Row load_row(const std::byte* p) { return load_any<Row>(p); }
  static Row load_u8(const std::byte* p) {
    return __builtin_convertvector(load_any<Bytes16>(p), Vec);
  }
  static Row load_i8(const std::byte* p) {
    return __builtin_convertvector(load_any<SignedBytes16>(p), Vec);
  }
  static Row row_set1(float x) { return set1(x); }
  static void store_row(float* p, const Row& x) { store(p, x); }

  static Vec load(const float* p) { return load_any<Vec>(p); }
  static void store(float* p, const Vec& x) { __builtin_memcpy(p, &x, sizeof x); }
  static Vec set1(float x) { return (Vec)ints_set1(__builtin_bit_cast(int32_t, x)); }
  static Vec add(const Vec& a, const Vec& b) { return a + b; }
  static Vec sub(const Vec& a, const Vec& b) { return a - b; }
  static Vec mul(const Vec& a, const Vec& b) { return a * b; }
  static Vec div(const Vec& a, const Vec& b) { return a / b; }
  static Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    Vec out;
    for (int i = 0; i < 16; ++i) out[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return out;
  }
  static Vec max(const Vec& a, const Vec& b) { return select(a > b, a, b); }
  static Vec min(const Vec& a, const Vec& b) { return select(a < b, a, b); }
  static Vec abs(const Vec& a) { return (Vec)((Ints)a & 0x7fffffff); }
  static Vec negate(const Vec& a) { return (Vec)((Ints)a ^ INT32_MIN); }
  static Vec select_less(const Vec& a, const Vec& b, const Vec& x, const Vec& y) {
    return select(a < b, x, y);
  }
  static Vec first_lanes(size_t n, const Vec& x, const Vec& y) {
    Vec out = y;
    for (size_t i = 0; i < n; ++i) out[i] = x[i];
    return out;
  }

  static Ints as_ints(const Vec& x) { return (Ints)x; }
  static Vec as_floats(const Ints& x) { return (Vec)x; }
  static Ints add_ints(const Ints& a, const Ints& b) { return (Ints)((Unsigned)a + (Unsigned)b); }
  static Ints and_ints(const Ints& a, const Ints& b) { return a & b; }
  template <int kShift>
  static Ints shift_left(const Ints& x) {
    return (Ints)((Unsigned)x << kShift);
  }
  template <int kShift>
  static Ints shift_right(const Ints& x) {
    return (Ints)((Unsigned)x >> kShift);
  }
  static Vec times_power_of_2(const Vec& x, const Vec& n) {
    return x * (Vec)((Ints)((Unsigned)(to_ints(n) + 127) << 23));
  }
  static Ints to_ints(const Vec& x) { return __builtin_convertvector(x, Ints); }
  static void store_as_int8(int8_t* p, const Ints& x) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(x[i]);
  }
  static Ints max_ints(const Ints& a, const Ints& b) {
    const Ints mask = a > b;
    return (a & mask) | (b & ~mask);
  }
  static int32_t max_lane(const Ints& x) {
    int32_t most = x[0];
    for (int i = 1; i < 16; ++i) most = x[i] > most ? x[i] : most;
    return most;
  }

  struct Pairs {
    Vec even, odd;
  };
  using Element = float;
  static Pairs load_pairs(const std::byte* p) {
    const Unsigned bits = load_any<Unsigned>(p);
    return {(Vec)(bits << 16), (Vec)(bits & 0xffff0000u)};
  }
  static Pairs repeat_pair(const Element* p) { return {set1(p[0]), set1(p[1])}; }
  static Pairs even_only(const Pairs& x) { return {x.even, Vec{}}; }
  static Pairs odd_only(const Pairs& x) { return {Vec{}, x.odd}; }
  static Vec dot_pairs(const Pairs& a, const Pairs& b, const Vec& acc) {
    return fma(a.even, b.even, fma(a.odd, b.odd, acc));
  }
  static void store_elements(Element* p, const Vec& x) { store(p, x); }
  template <class Fn>
  static float fold_lanes(Vec x, const Fn& fn) {
    for (int half = 8; half > 0; half /= 2) {
      Vec upper = x;
      for (int i = 0; i < half; ++i) upper[i] = x[i + half];
      x = fn(x, upper);
    }
    return x[0];
  }
  static Vec load_codes(const std::byte* p) { return load_i8(p); }
  static void store_bf16(std::byte* p, const Vec& x) {
    const Words16 upper = __builtin_convertvector((Unsigned)x >> 16, Words16);
    __builtin_memcpy(p, &upper, sizeof upper);
  }
  static Vec load_bf16_twice(const std::byte* p) {
    Ints out;
    for (int i = 0; i < 16; ++i) out[i] = static_cast<int32_t>(load_any<uint16_t>(p + i / 2 * 2));
    return (Vec)((Unsigned)out << 16);
  }
  static Vec load_bf16_in_turn(const std::byte* p) {
    Ints out;
    for (int i = 0; i < 16; ++i) out[i] = static_cast<int32_t>(load_any<uint16_t>(p + i % 2 * 2));
    return (Vec)((Unsigned)out << 16);
  }

 private:
  static Vec select(const Ints& mask, const Vec& x, const Vec& y) {
    return (Vec)(((Ints)x & mask) | ((Ints)y & ~mask));
  }
};

}  // namespace smallmind::simd
