// NEON with dot products (FEAT_DotProd): 8 rows a strip, four 128-bit registers a logical vector.
// Included by kernels_neon.cc only.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace smallmind::simd {

struct Neon {
  static constexpr size_t kRows = 8;
  static constexpr size_t kMaxTile = 16;
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

  struct Bytes {
    uint8x16_t low, high;
  };
  struct Row {
    float32x4_t low, high;
  };
  struct Dot {
    int32x4_t low, high;
  };
  struct Vec {
    float32x4_t q[4];
  };
  struct Ints {
    int32x4_t q[4];
  };
  // The codes of a block of one token, 4 columns a lane.
  struct Inputs {
    int8x16_t low, high;
  };

  static Bytes load_bytes(const std::byte* p) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(p);
    return {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
  }
  static Bytes low_nibbles(Bytes x) {
    return {vandq_u8(x.low, vdupq_n_u8(15)), vandq_u8(x.high, vdupq_n_u8(15))};
  }
  static Bytes high_nibbles(Bytes x) { return {vshrq_n_u8(x.low, 4), vshrq_n_u8(x.high, 4)}; }
  static Bytes or_bytes(Bytes a, Bytes b) {
    return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)};
  }
  static Bytes flip_sign_bits(Bytes x) { return x; }
  template <int kFrom, int kTo, int kMask>
  static Bytes move_bits(Bytes x) {
    const uint8x16_t mask = vdupq_n_u8(kMask);
    if constexpr (kFrom > kTo)
      return {vandq_u8(vshrq_n_u8(x.low, kFrom - kTo), mask),
              vandq_u8(vshrq_n_u8(x.high, kFrom - kTo), mask)};
    else
      return {vandq_u8(vshlq_n_u8(x.low, kTo - kFrom), mask),
              vandq_u8(vshlq_n_u8(x.high, kTo - kFrom), mask)};
  }

  static Inputs load_inputs(const int8_t* p) { return {vld1q_s8(p), vld1q_s8(p + 16)}; }
  static Dot dot_start() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  template <int kShift>
  static Dot dot_start_offset(const int32_t* minus_sum) {
    const int32x4_t start = vshlq_n_s32(vdupq_n_s32(*minus_sum), kShift);
    return {start, start};
  }
  template <int kBits, bool kSigned, int kStep>
  static void dot_add(Dot& dot, Bytes codes, Inputs inputs) {
    const int8x16_t four_steps = kStep < 4 ? inputs.low : inputs.high;
    dot.low = vdotq_laneq_s32(dot.low, vreinterpretq_s8_u8(codes.low), four_steps, kStep % 4);
    dot.high = vdotq_laneq_s32(dot.high, vreinterpretq_s8_u8(codes.high), four_steps, kStep % 4);
  }
  // Adds the squares of (codes - kOffset), which are signed bytes.
  template <int kOffset>
  static void add_squares(Dot& dot, Bytes codes) {
    const int8x16_t low = vreinterpretq_s8_u8(vsubq_u8(codes.low, vdupq_n_u8(kOffset)));
    const int8x16_t high = vreinterpretq_s8_u8(vsubq_u8(codes.high, vdupq_n_u8(kOffset)));
    dot = {vdotq_s32(dot.low, low, low), vdotq_s32(dot.high, high, high)};
  }
  // 128 * high + low
  static Dot dot_planes(Dot high, Dot low) {
    return {vaddq_s32(vshlq_n_s32(high.low, 7), low.low),
            vaddq_s32(vshlq_n_s32(high.high, 7), low.high)};
  }
  static Row dot_to_row(Dot dot) { return {vcvtq_f32_s32(dot.low), vcvtq_f32_s32(dot.high)}; }

  static Row load_half(const std::byte* p) {
    const uint16x8_t halves = load_words(p);
    return {vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves))),
            vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves)))};
  }
  static Row load_bf16(const std::byte* p) {
    const uint16x8_t words = load_words(p);
    return {widen_bf16(vget_low_u16(words)), widen_bf16(vget_high_u16(words))};
  }
  static Row load_row(const std::byte* p) {
    const auto* floats = reinterpret_cast<const float*>(p);
    return {vld1q_f32(floats), vld1q_f32(floats + 4)};
  }
  static Row load_u8(const std::byte* p) {
    const uint16x8_t words = vmovl_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p)));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))),
            vcvtq_f32_u32(vmovl_u16(vget_high_u16(words)))};
  }
  static Row load_i8(const std::byte* p) {
    const int16x8_t words = vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(p)));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))),
            vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)))};
  }
  static Row row_set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
  static void store_row(float* p, Row x) {
    vst1q_f32(p, x.low);
    vst1q_f32(p + 4, x.high);
  }
  static Row mul(Row a, Row b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
  static Row add(Row a, Row b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
  static Row fma(Row a, Row b, Row c) {
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
  }
  static Row negate(Row a) { return {vnegq_f32(a.low), vnegq_f32(a.high)}; }

  static Vec load(const float* p) {
    return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
  }
  static void store(float* p, Vec x) {
    for (size_t i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.q[i]);
  }
  static Vec set1(float x) { return both(vdupq_n_f32(x), vdupq_n_f32(x)); }
  static Vec add(Vec a, Vec b) {
    return quarters([&](size_t i) { return vaddq_f32(a.q[i], b.q[i]); });
  }
  static Vec sub(Vec a, Vec b) {
    return quarters([&](size_t i) { return vsubq_f32(a.q[i], b.q[i]); });
  }
  static Vec mul(Vec a, Vec b) {
    return quarters([&](size_t i) { return vmulq_f32(a.q[i], b.q[i]); });
  }
  static Vec div(Vec a, Vec b) {
    return quarters([&](size_t i) { return vdivq_f32(a.q[i], b.q[i]); });
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return quarters([&](size_t i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); });
  }
  // a > b ? a : b and a < b ? a : b, which the processor's own max and min are not for NaN.
  static Vec max(Vec a, Vec b) { return select_less(b, a, a, b); }
  static Vec min(Vec a, Vec b) { return select_less(a, b, a, b); }
  static Vec abs(Vec a) {
    return quarters([&](size_t i) { return vabsq_f32(a.q[i]); });
  }
  static Vec negate(Vec a) {
    return quarters([&](size_t i) { return vnegq_f32(a.q[i]); });
  }
  static Vec round_even(Vec a) {
    return quarters([&](size_t i) { return vrndnq_f32(a.q[i]); });
  }
  static Vec select_less(Vec a, Vec b, Vec x, Vec y) {
    return quarters([&](size_t i) { return vbslq_f32(vcltq_f32(a.q[i], b.q[i]), x.q[i], y.q[i]); });
  }
  static Vec first_lanes(size_t n, Vec x, Vec y) {
    constexpr int32_t kLanes[4] = {0, 1, 2, 3};
    const auto count = static_cast<int32_t>(n);
    return quarters([&](size_t i) {
      const int32x4_t left = vdupq_n_s32(count - static_cast<int32_t>(4 * i));
      return vbslq_f32(vcgtq_s32(left, vld1q_s32(kLanes)), x.q[i], y.q[i]);
    });
  }

  static Ints as_ints(Vec x) {
    return int_quarters([&](size_t i) { return vreinterpretq_s32_f32(x.q[i]); });
  }
  static Vec as_floats(Ints x) {
    return quarters([&](size_t i) { return vreinterpretq_f32_s32(x.q[i]); });
  }
  static Ints ints_set1(int32_t x) {
    return int_quarters([&](size_t) { return vdupq_n_s32(x); });
  }
  static Ints add_ints(Ints a, Ints b) {
    return int_quarters([&](size_t i) { return vaddq_s32(a.q[i], b.q[i]); });
  }
  static Ints and_ints(Ints a, Ints b) {
    return int_quarters([&](size_t i) { return vandq_s32(a.q[i], b.q[i]); });
  }
  template <int kShift>
  static Ints shift_left(Ints x) {
    return int_quarters([&](size_t i) { return vshlq_n_s32(x.q[i], kShift); });
  }
  template <int kShift>
  static Ints shift_right(Ints x) {
    return int_quarters([&](size_t i) {
      return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x.q[i]), kShift));
    });
  }
  static Vec times_power_of_2(Vec x, Vec n) {
    return mul(x, as_floats(shift_left<23>(add_ints(to_ints(n), ints_set1(127)))));
  }
  static Ints to_ints(Vec x) {
    return int_quarters([&](size_t i) { return vcvtnq_s32_f32(x.q[i]); });
  }
  static void store_as_int8(int8_t* p, Ints x) {
    const int16x8_t low = vcombine_s16(vmovn_s32(x.q[0]), vmovn_s32(x.q[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(x.q[2]), vmovn_s32(x.q[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
  static Ints max_ints(Ints a, Ints b) {
    return int_quarters([&](size_t i) { return vmaxq_s32(a.q[i], b.q[i]); });
  }
  static int32_t max_lane(Ints x) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.q[0], x.q[1]), vmaxq_s32(x.q[2], x.q[3])));
  }

  struct Pairs {
    Vec even, odd;
  };
  using Element = float;
  static Pairs load_pairs(const std::byte* p) {
    const auto* words = reinterpret_cast<const uint32_t*>(p);
    const auto bits =
        int_quarters([&](size_t i) { return vreinterpretq_s32_u32(vld1q_u32(words + 4 * i)); });
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
    const Vec eight = fn(both(x.q[0], x.q[1]), both(x.q[2], x.q[3]));
    const float32x4_t four = fn(both(eight.q[0], eight.q[0]), both(eight.q[1], eight.q[1])).q[0];
    const float32x4_t upper = vextq_f32(four, four, 2);
    const float32x4_t two = fn(both(four, four), both(upper, upper)).q[0];
    const float32x4_t odd = vrev64q_f32(two);
    return vgetq_lane_f32(fn(both(two, two), both(odd, odd)).q[0], 0);
  }
  static Vec load_codes(const std::byte* p) {
    const Row low = load_i8(p), high = load_i8(p + 8);
    return {{low.low, low.high, high.low, high.high}};
  }
  static void store_bf16(std::byte* p, Vec x) {
    const auto upper = [&](size_t i) { return vshrn_n_u32(vreinterpretq_u32_f32(x.q[i]), 16); };
    auto* words = reinterpret_cast<uint16_t*>(p);
    vst1q_u16(words, vcombine_u16(upper(0), upper(1)));
    vst1q_u16(words + 8, vcombine_u16(upper(2), upper(3)));
  }
  static Vec load_bf16_twice(const std::byte* p) {
    const Row eight = load_bf16(p);
    return {{vzip1q_f32(eight.low, eight.low), vzip2q_f32(eight.low, eight.low),
             vzip1q_f32(eight.high, eight.high), vzip2q_f32(eight.high, eight.high)}};
  }
  static Vec load_bf16_in_turn(const std::byte* p) {
    uint32_t pair;
    __builtin_memcpy(&pair, p, 4);
    const float32x4_t in_turn = widen_bf16(vreinterpret_u16_u32(vdup_n_u32(pair)));
    return both(in_turn, in_turn);
  }

 private:
  template <class Fn>
  static Vec quarters(const Fn& fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
  }
  template <class Fn>
  static Ints int_quarters(const Fn& fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
  }
  // Each half twice.
  static Vec both(float32x4_t low, float32x4_t high) { return {{low, high, low, high}}; }
  static uint16x8_t load_words(const std::byte* p) {
    return vld1q_u16(reinterpret_cast<const uint16_t*>(p));
  }
  static float32x4_t widen_bf16(uint16x4_t words) {
    return vreinterpretq_f32_u32(vshll_n_u16(words, 16));
  }
};

}  // namespace smallmind::simd
