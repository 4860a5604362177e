// Q5_0: 32 weights, w = d * (code - 16), code 0 ... 31 of 4 low bits and 1 high bit, d in binary16.
#pragma once

#include <cstring>

#include "base/half.h"
#include "quant/panel.h"

namespace smallmind::quant {

struct Q5_0 {
  static constexpr gguf::TensorType kType = gguf::TensorType::kQ5_0;
  static constexpr bool kInteger = true;
  static constexpr size_t kFileBlock = 32;
  static constexpr int kCodeBits = 5;
  static constexpr bool kSigned = false;
  static constexpr int kZeroPointLog2 = 4;  // codes are offset by 2^this; -1: not at all
  static constexpr int kScalesPerBlock = 1;
  static constexpr bool kHasMin = false;

  // The file's block.
  struct Block {
    uint16_t d;
    uint8_t high[4];    // bit i of the little-endian word: bit 4 of element i
    uint8_t codes[16];  // low nibble: element i, high nibble: element i + 16
  };
  static_assert(sizeof(Block) == 22);

  static void dequantize(const Block& block, float* out) {
    const float d = half_to_float(block.d);
    uint32_t high;
    std::memcpy(&high, block.high, 4);
    for (int i = 0; i < 16; ++i) {
      const int first = (block.codes[i] & 15) | static_cast<int>(high >> i & 1u) << 4;
      const int second = (block.codes[i] >> 4) | static_cast<int>(high >> (i + 16) & 1u) << 4;
      out[i] = d * static_cast<float>(first - 16);
      out[i + 16] = d * static_cast<float>(second - 16);
    }
  }

  // Chunk: [nibbles: n x 256][high bits: n x 64][d: n x 16 binary16].
  static constexpr size_t chunk_bytes(size_t n_blocks) { return n_blocks * 352; }

  static constexpr size_t kCodeLines = 4;

  static void pack(const std::byte* block, size_t i_block, size_t row, size_t n_blocks,
                   std::byte* chunk) {
    store_as(chunk + n_blocks * 256 + i_block * 64 + row * 4,
             transpose_bits(load_as<uint32_t>(block + offsetof(Block, high))));
    store_as(chunk + n_blocks * 320 + i_block * 32 + row * 2,
             load_as<uint16_t>(block + offsetof(Block, d)));
  }

  static void unpack(const std::byte* chunk, size_t i_block, size_t row, size_t n_blocks,
                     Block& block) {
    for (size_t l = 0; l < 4; ++l)
      std::memcpy(block.codes + 4 * l, chunk + i_block * 256 + group_offset(l, row), 4);
    const uint32_t high =
        untranspose_bits(load_as<uint32_t>(chunk + n_blocks * 256 + i_block * 64 + row * 4));
    std::memcpy(block.high, &high, 4);
    block.d = load_as<uint16_t>(chunk + n_blocks * 320 + i_block * 32 + row * 2);
  }

  template <class S>
  static void codes(const std::byte* chunk, size_t n_blocks, size_t i_block, size_t row,
                    Codes<S>& out) {
    unpack_nibbles<S>(chunk + i_block * 256, row, out);
    const auto high = S::load_bytes(chunk + n_blocks * 256 + i_block * 64 + row * 4);
    add_high_bit<S, 0>(out, high);
  }
  template <class S>
  static typename S::Row scale(const std::byte* chunk, size_t n_blocks, size_t i_block, int,
                               size_t row) {
    return S::load_half(chunk + n_blocks * 320 + i_block * 32 + row * 2);
  }

 private:
  // Bit g of byte k of the chunk's word is bit 4 g + k of the file's: byte k then serves column k
  // of every group.
  static uint32_t transpose_bits(uint32_t word) {
    // A group's four bits to each byte, then the 8 x 8 bits transposed: squares of 1, 2 and 4 bits.
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
    uint64_t moved = (x ^ x >> 7) & 0x00aa00aa00aa00aau;
    x ^= moved ^ moved << 7;
    moved = (x ^ x >> 14) & 0x0000cccc0000ccccu;
    x ^= moved ^ moved << 14;
    return static_cast<uint32_t>((x & 0x0f0f0f0fu) | (x >> 28 & 0xf0f0f0f0u));
  }
  static uint32_t untranspose_bits(uint32_t word) {
    uint32_t out = 0;
    for (uint32_t k = 0; k < 4; ++k)
      for (uint32_t g = 0; g < 8; ++g) out |= (word >> (8 * k + g) & 1u) << (4 * g + k);
    return out;
  }
  template <class S, int kGroup>
  static void add_high_bit(Codes<S>& out, typename S::Bytes high) {
    if constexpr (kGroup < 8) {
      out.group[kGroup] =
          S::or_bytes(out.group[kGroup], S::template move_bits<kGroup, 4, 0x10>(high));
      add_high_bit<S, kGroup + 1>(out, high);
    }
  }
};

}  // namespace smallmind::quant
