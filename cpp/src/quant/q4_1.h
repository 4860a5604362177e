// Q4_1: 32 weights, w = d * code + m, code 0 ... 15, d and m in binary16.
#pragma once

#include <cstring>

#include "base/half.h"
#include "quant/panel.h"

namespace smallmind::quant {

struct Q4_1 {
  static constexpr gguf::TensorType kType = gguf::TensorType::kQ4_1;
  static constexpr bool kInteger = true;
  static constexpr size_t kFileBlock = 32;
  static constexpr int kCodeBits = 4;
  static constexpr bool kSigned = false;
  static constexpr int kZeroPointLog2 = -1;  // codes are offset by 2^this; -1: not at all
  static constexpr int kScalesPerBlock = 1;
  static constexpr bool kHasMin = true;

  // The file's block.
  struct Block {
    uint16_t d;
    uint16_t m;
    uint8_t codes[16];  // low nibble: element i, high nibble: element i + 16
  };
  static_assert(sizeof(Block) == 20);

  static void dequantize(const Block& block, float* out) {
    const float d = half_to_float(block.d);
    const float m = half_to_float(block.m);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>(block.codes[i] & 15) + m;
      out[i + 16] = d * static_cast<float>(block.codes[i] >> 4) + m;
    }
  }

  // Chunk: [codes: n x 256][d and m: n x (16 + 16) binary16].
  static constexpr size_t chunk_bytes(size_t n_blocks) { return n_blocks * 320; }

  static constexpr size_t kCodeLines = 4;

  static void pack(const std::byte* block, size_t i_block, size_t row, size_t n_blocks,
                   std::byte* chunk) {
    store_as(chunk + n_blocks * 256 + i_block * 64 + row * 2,
             load_as<uint16_t>(block + offsetof(Block, d)));
    store_as(chunk + n_blocks * 256 + i_block * 64 + 32 + row * 2,
             load_as<uint16_t>(block + offsetof(Block, m)));
  }

  static void unpack(const std::byte* chunk, size_t i_block, size_t row, size_t n_blocks,
                     Block& block) {
    for (size_t l = 0; l < 4; ++l)
      std::memcpy(block.codes + 4 * l, chunk + i_block * 256 + group_offset(l, row), 4);
    block.d = load_as<uint16_t>(chunk + n_blocks * 256 + i_block * 64 + row * 2);
    block.m = load_as<uint16_t>(chunk + n_blocks * 256 + i_block * 64 + 32 + row * 2);
  }

  template <class S>
  static void codes(const std::byte* chunk, size_t, size_t i_block, size_t row, Codes<S>& out) {
    unpack_nibbles<S>(chunk + i_block * 256, row, out);
  }
  template <class S>
  static typename S::Row scale(const std::byte* chunk, size_t n_blocks, size_t i_block, int,
                               size_t row) {
    return S::load_half(chunk + n_blocks * 256 + i_block * 64 + row * 2);
  }
  // What is added for each unit of the inputs' sum.
  template <class S>
  static typename S::Row offset(const std::byte* chunk, size_t n_blocks, size_t i_block,
                                size_t row) {
    return S::load_half(chunk + n_blocks * 256 + i_block * 64 + 32 + row * 2);
  }
};

}  // namespace smallmind::quant
