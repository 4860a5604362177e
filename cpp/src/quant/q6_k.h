// Q6_K: 256 weights in 16 blocks of 16, w = (d * scale) * (code - 32), code 0 ... 63, scale a
// signed byte.
#pragma once

#include <cstring>

#include "base/half.h"
#include "quant/panel.h"

namespace smallmind::quant {

struct Q6_K {
  static constexpr gguf::TensorType kType = gguf::TensorType::kQ6_K;
  static constexpr bool kInteger = true;
  static constexpr size_t kFileBlock = 256;
  static constexpr int kCodeBits = 6;
  static constexpr bool kSigned = false;
  static constexpr int kZeroPointLog2 = 5;
  static constexpr int kScalesPerBlock = 2;
  static constexpr bool kHasMin = false;

  // The file's block. Of the 128 elements of half h, quarter s holds elements 32 s ... 32 s + 31:
  // their low 4 bits are nibble s / 2 of low[64 h + 32 (s % 2) + i], their high 2 bits are bits 2 s
  // of high[32 h + i].
  struct Block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    uint16_t d;
  };
  static_assert(sizeof(Block) == 210);

  static void dequantize(const Block& block, float* out) {
    const float d = half_to_float(block.d);
    for (size_t j = 0; j < 8; ++j) {
      const size_t h = j / 4, s = j % 4;
      for (size_t i = 0; i < 32; ++i) {
        const int low = block.low[64 * h + 32 * (s % 2) + i] >> (s / 2 * 4) & 15;
        const int high = block.high[32 * h + i] >> (2 * s) & 3;
        const float scale = d * static_cast<float>(block.scales[2 * j + i / 16]);
        out[j * 32 + i] = scale * static_cast<float>((low | high << 4) - 32);
      }
    }
  }

  // Chunk: [nibbles: n x 256][high bits: n x 128][scales: n x (16 + 16) signed bytes][d: n / 8 x 16
  // binary16]. Byte 4 row + k of line m of the high bits holds, at bits 2 i, those of column 4 (4 m
  // + i) + k.
  static constexpr size_t chunk_bytes(size_t n_blocks) {
    return n_blocks * 416 + n_blocks / 8 * 32;
  }

  static void pack(const Block& block, size_t i_block, size_t row, size_t n_blocks,
                   std::byte* chunk) {
    store_as(chunk + n_blocks * 416 + i_block * 32 + row * 2, block.d);
    for (size_t j = 0; j < 8; ++j) {
      const size_t b = i_block * 8 + j, h = j / 4, s = j % 4;
      std::byte* scales = chunk + n_blocks * 384 + b * 32 + row;
      store_as(scales, block.scales[2 * j]);
      store_as(scales + 16, block.scales[2 * j + 1]);
      const auto* low = reinterpret_cast<const std::byte*>(block.low + 64 * h + 32 * (s % 2));
      for (size_t l = 0; l < 4; ++l) {
        const uint32_t first = load_as<uint32_t>(low + 4 * l) >> (s / 2 * 4) & 0x0f0f0f0fu;
        const uint32_t second = load_as<uint32_t>(low + 16 + 4 * l) >> (s / 2 * 4) & 0x0f0f0f0fu;
        store_as(chunk + b * 256 + group_offset(l, row), first | second << 4);
      }
      const auto* high = reinterpret_cast<const std::byte*>(block.high + 32 * h);
      for (size_t m = 0; m < 2; ++m) {
        uint32_t word = 0;
        for (size_t i = 0; i < 4; ++i)
          word |= (load_as<uint32_t>(high + 16 * m + 4 * i) >> (2 * s) & 0x03030303u) << (2 * i);
        store_as(chunk + n_blocks * 256 + b * 128 + group_offset(m, row), word);
      }
    }
  }

  static void unpack(const std::byte* chunk, size_t i_block, size_t row, size_t n_blocks,
                     Block& block) {
    std::memset(&block, 0, sizeof block);
    block.d = load_as<uint16_t>(chunk + n_blocks * 416 + i_block * 32 + row * 2);
    for (size_t j = 0; j < 8; ++j) {
      const size_t b = i_block * 8 + j, h = j / 4, s = j % 4;
      const std::byte* scales = chunk + n_blocks * 384 + b * 32 + row;
      block.scales[2 * j] = load_as<int8_t>(scales);
      block.scales[2 * j + 1] = load_as<int8_t>(scales + 16);
      for (size_t i = 0; i < 32; ++i) {
        const size_t group = i / 4, k = i % 4;
        const auto nibbles = load_as<uint8_t>(chunk + b * 256 + group_offset(group % 4, row) + k);
        const auto pairs =
            load_as<uint8_t>(chunk + n_blocks * 256 + b * 128 + group_offset(group / 4, row) + k);
        const int low = nibbles >> (group / 4 * 4) & 15;
        const int high = pairs >> (2 * (group % 4)) & 3;
        uint8_t& low_byte = block.low[64 * h + 32 * (s % 2) + i];
        uint8_t& high_byte = block.high[32 * h + i];
        low_byte = static_cast<uint8_t>(low_byte | low << (s / 2 * 4));
        high_byte = static_cast<uint8_t>(high_byte | high << (2 * s));
      }
    }
  }

  template <class S>
  static void codes(const std::byte* chunk, size_t n_blocks, size_t i_block, size_t row,
                    Codes<S>& out) {
    unpack_nibbles<S>(chunk + i_block * 256, row, out);
    const std::byte* high = chunk + n_blocks * 256 + i_block * 128;
    for (size_t m = 0; m < 2; ++m) {
      const auto pairs = S::load_bytes(high + group_offset(m, row));
      auto* group = out.group + 4 * m;
      group[0] = S::or_bytes(group[0], S::template move_bits<0, 4, 0x30>(pairs));
      group[1] = S::or_bytes(group[1], S::template move_bits<2, 4, 0x30>(pairs));
      group[2] = S::or_bytes(group[2], S::template move_bits<4, 4, 0x30>(pairs));
      group[3] = S::or_bytes(group[3], S::template move_bits<6, 4, 0x30>(pairs));
    }
  }
  // half 0: columns 0 ... 15 of the block, half 1: columns 16 ... 31.
  template <class S>
  static typename S::Row scale(const std::byte* chunk, size_t n_blocks, size_t i_block, int half,
                               size_t row) {
    const auto d = S::load_half(chunk + n_blocks * 416 + i_block / 8 * 32 + row * 2);
    return S::mul(d, S::load_i8(chunk + n_blocks * 384 + i_block * 32 +
                                static_cast<size_t>(half) * 16 + row));
  }
};

}  // namespace smallmind::quant
