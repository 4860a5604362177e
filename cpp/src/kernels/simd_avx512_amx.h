// AVX-512 with AMX, whose tile registers take the dots of 16 tokens with 16 rows of weights in one
// instruction. Included by kernels_avx512_amx.cc only.
#pragma once

#include "kernels/simd_avx512_bf16.h"

namespace smallmind::simd {

struct Avx512Amx : Avx512 {
  static constexpr size_t kTileTokens = 16;

  // The tile registers. Dots have one for each of two turns, so that one is taken while the one
  // before waits to be stored, and for each of two planes of inputs.
  template <int kTurn, int kPlane>
  static constexpr int kDots = 2 * kTurn + kPlane;
  static constexpr int kTokens = 4;
  static constexpr int kWeights = 5;

  // Shapes the tile registers of this thread for dots of n_columns (a multiple of 4, at most 64)
  // with n_tokens (1 ... 16). Holds until release().
  static void configure(size_t n_tokens, size_t n_columns) {
    struct {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t n_rows[16] = {};
    } shapes;
    static_assert(sizeof shapes == 64);
    const auto set = [&](int tile, size_t n_rows, size_t row_bytes) {
      shapes.n_rows[tile] = static_cast<uint8_t>(n_rows);
      shapes.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
    };
    for (int dots = 0; dots < 4; ++dots) set(dots, n_tokens, 64);
    set(kTokens, n_tokens, n_columns);
    set(kWeights, n_columns / 4, 64);
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }
  static void release() { asm volatile("tilerelease"); }

  // (In assembly, since g++'s intrinsics do not tell the compiler that they touch memory.)
  static void load_weights(const std::byte* lines) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(lines), "r"(size_t{64}), "i"(kWeights)
                 : "memory");
  }
  // Codes of one plane, `stride` bytes from token to token.
  static void load_tokens(const int8_t* codes, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(codes), "r"(stride), "i"(kTokens)
                 : "memory");
  }
  // The dots of both, which are signed bytes.
  template <int kTurn, int kPlane>
  static void take_dots() {
    asm volatile("tilezero %%tmm%c0\n\ttdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kDots<kTurn, kPlane>), "i"(kTokens), "i"(kWeights));
  }
  template <int kTurn, int kPlane>
  static void store_dots(int32_t (*dots)[16]) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
                 :
                 : "r"(dots), "r"(size_t{64}), "i"(kDots<kTurn, kPlane>)
                 : "memory");
  }

  static Dot load_dots(const int32_t* dots) { return _mm512_load_si512(dots); }
  // As dot_to_row, for |dot| < 2^22. Near instructions of the tile registers, conversions and
  // multiplications find one unit; additions find two.
  static Row small_dot_to_row(Dot dot) {
    const Dot magic = _mm512_set1_epi32(0x4b400000);  // 3 * 2^22 as a float
    return _mm512_sub_ps(_mm512_castsi512_ps(_mm512_add_epi32(dot, magic)),
                         _mm512_castsi512_ps(magic));
  }
  // Stores codes with their offset of 2^kZeroPointLog2 taken away; -1: none.
  template <int kZeroPointLog2>
  static void store_signed(std::byte* p, Bytes codes) {
    if constexpr (kZeroPointLog2 >= 0)
      codes = _mm512_sub_epi8(codes, _mm512_set1_epi8(1 << kZeroPointLog2));
    _mm512_store_si512(p, codes);
  }

  // For attention, which finds two multiplications a cycle here, but not one dot of bfloat16 pairs.
  // REQUIRES: no x < 0.
  static Vec store_rounded(Element* p, Vec x) {
    const Vec rounded = Avx512Bf16::widen_bits(Avx512Bf16::rounded_bits(x));
    store(p, rounded);
    return rounded;
  }
};

}  // namespace smallmind::simd
