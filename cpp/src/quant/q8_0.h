// Q8_0: 32 weights, w = d * code, code -128 ... 127, d in binary16.
#pragma once

#include <cstring>

#include "base/half.h"
#include "quant/panel.h"

namespace smallmind::quant {

struct Q8_0 {
  static constexpr gguf::TensorType kType = gguf::TensorType::kQ8_0;
  static constexpr bool kInteger = true;
  static constexpr size_t kFileBlock = 32;
  static constexpr int kCodeBits = 8;
  static constexpr bool kSigned = true;
  static constexpr int kZeroPointLog2 = -1;  // codes are offset by 2^this; -1: not at all
  static constexpr int kScalesPerBlock = 1;
  static constexpr bool kHasMin = false;

  // The file's block.
  struct Block {
    uint16_t d;
    int8_t codes[32];
  };
  static_assert(sizeof(Block) == 34);

  static void dequantize(const Block& block, float* out) {
    const float d = half_to_float(block.d);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.codes[i]);
  }

  // Chunk: [codes: n x 512][d: n x 16 binary16].
  static constexpr size_t chunk_bytes(size_t n_blocks) { return n_blocks * 544; }

  static constexpr size_t kCodeLines = 8;

  static void pack(const std::byte* block, size_t i_block, size_t row, size_t n_blocks,
                   std::byte* chunk) {
    store_as(chunk + n_blocks * 512 + i_block * 32 + row * 2,
             load_as<uint16_t>(block + offsetof(Block, d)));
  }

  static void unpack(const std::byte* chunk, size_t i_block, size_t row, size_t n_blocks,
                     Block& block) {
    for (size_t g = 0; g < kGroups; ++g)
      std::memcpy(block.codes + 4 * g, chunk + i_block * 512 + group_offset(g, row), 4);
    block.d = load_as<uint16_t>(chunk + n_blocks * 512 + i_block * 32 + row * 2);
  }

  template <class S>
  static void codes(const std::byte* chunk, size_t, size_t i_block, size_t row, Codes<S>& out) {
    for (size_t g = 0; g < kGroups; ++g)
      out.group[g] = S::load_bytes(chunk + i_block * 512 + group_offset(g, row));
  }
  template <class S>
  static typename S::Row scale(const std::byte* chunk, size_t n_blocks, size_t i_block, int,
                               size_t row) {
    return S::load_half(chunk + n_blocks * 512 + i_block * 32 + row * 2);
  }
};

}  // namespace smallmind::quant
