// Q4_K: 256 weights in 8 blocks of 32, w = (d * scale) * code - (dmin * min), code 0 ... 15, scale
// and min 6 bits a block.
#pragma once

#include <cstring>

#include "base/half.h"
#include "quant/panel.h"

namespace smallmind::quant {

struct Q4_K {
  static constexpr gguf::TensorType kType = gguf::TensorType::kQ4_K;
  static constexpr bool kInteger = true;
  static constexpr size_t kFileBlock = 256;
  static constexpr int kCodeBits = 4;
  static constexpr bool kSigned = false;
  static constexpr int kZeroPointLog2 = -1;
  static constexpr int kScalesPerBlock = 1;
  static constexpr bool kHasMin = true;

  // The file's block.
  struct Block {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];  // 8 scales and 8 mins of 6 bits, see scale_of and min_of
    uint8_t codes[128];  // 4 x 32 bytes; low nibbles: block 2 i, high nibbles: block 2 i + 1
  };
  static_assert(sizeof(Block) == 144);

  static uint8_t scale_of(const Block& block, size_t j) {
    const uint8_t* s = block.scales;
    return static_cast<uint8_t>(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
  }
  static uint8_t min_of(const Block& block, size_t j) {
    const uint8_t* s = block.scales;
    return static_cast<uint8_t>(j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4);
  }

  static void dequantize(const Block& block, float* out) {
    const float d = half_to_float(block.d);
    const float dmin = half_to_float(block.dmin);
    for (size_t j = 0; j < 8; ++j) {
      const float scale = d * static_cast<float>(scale_of(block, j));
      const float min = dmin * static_cast<float>(min_of(block, j));
      for (size_t i = 0; i < 32; ++i) {
        const int code = block.codes[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
        out[j * 32 + i] = scale * static_cast<float>(code) - min;
      }
    }
  }

  // Chunk: [codes: n x 256][scales and mins: n x (16 + 16) bytes][d and dmin: n / 8 x (16 + 16)
  // binary16]. The 6-bit numbers take a byte each: 4.625 bits a weight against the file's 4.5, for
  // a load without shifts.
  static constexpr size_t chunk_bytes(size_t n_blocks) {
    return n_blocks * 288 + n_blocks / 8 * 64;
  }

  static void pack(const Block& block, size_t i_block, size_t row, size_t n_blocks,
                   std::byte* chunk) {
    std::byte* header = chunk + n_blocks * 288 + i_block * 64 + row * 2;
    store_as(header, block.d);
    store_as(header + 32, block.dmin);
    for (size_t j = 0; j < 8; ++j) {
      const size_t b = i_block * 8 + j;
      std::byte* scales = chunk + n_blocks * 256 + b * 32 + row;
      store_as(scales, scale_of(block, j));
      store_as(scales + 16, min_of(block, j));
      const auto* codes = reinterpret_cast<const std::byte*>(block.codes + j / 2 * 32);
      for (size_t l = 0; l < 4; ++l) {
        const uint32_t low = load_as<uint32_t>(codes + 4 * l) >> (j % 2 * 4) & 0x0f0f0f0fu;
        const uint32_t high = load_as<uint32_t>(codes + 16 + 4 * l) >> (j % 2 * 4) & 0x0f0f0f0fu;
        store_as(chunk + b * 256 + group_offset(l, row), low | high << 4);
      }
    }
  }

  static void unpack(const std::byte* chunk, size_t i_block, size_t row, size_t n_blocks,
                     Block& block) {
    const std::byte* header = chunk + n_blocks * 288 + i_block * 64 + row * 2;
    block.d = load_as<uint16_t>(header);
    block.dmin = load_as<uint16_t>(header + 32);
    std::memset(block.scales, 0, sizeof block.scales);
    std::memset(block.codes, 0, sizeof block.codes);
    for (size_t j = 0; j < 8; ++j) {
      const size_t b = i_block * 8 + j;
      const std::byte* scales = chunk + n_blocks * 256 + b * 32 + row;
      set_scale_and_min(block, j, load_as<uint8_t>(scales), load_as<uint8_t>(scales + 16));
      for (size_t l = 0; l < 4; ++l) {
        const auto word = load_as<uint32_t>(chunk + b * 256 + group_offset(l, row));
        for (size_t k = 0; k < 4; ++k) {
          uint8_t* codes = block.codes + j / 2 * 32 + 4 * l + k;
          codes[0] = static_cast<uint8_t>(codes[0] | (word >> (8 * k) & 15) << (j % 2 * 4));
          codes[16] = static_cast<uint8_t>(codes[16] | (word >> (8 * k + 4) & 15) << (j % 2 * 4));
        }
      }
    }
  }

  template <class S>
  static void codes(const std::byte* chunk, size_t, size_t i_block, size_t row, Codes<S>& out) {
    unpack_nibbles<S>(chunk + i_block * 256, row, out);
  }
  template <class S>
  static typename S::Row scale(const std::byte* chunk, size_t n_blocks, size_t i_block, int,
                               size_t row) {
    const auto d = S::load_half(chunk + n_blocks * 288 + i_block / 8 * 64 + row * 2);
    return S::mul(d, S::load_u8(chunk + n_blocks * 256 + i_block * 32 + row));
  }
  // What is added for each unit of the inputs' sum: minus the min.
  template <class S>
  static typename S::Row offset(const std::byte* chunk, size_t n_blocks, size_t i_block,
                                size_t row) {
    const auto dmin = S::load_half(chunk + n_blocks * 288 + i_block / 8 * 64 + 32 + row * 2);
    return S::negate(S::mul(dmin, S::load_u8(chunk + n_blocks * 256 + i_block * 32 + 16 + row)));
  }

 private:
  static void set_scale_and_min(Block& block, size_t j, uint8_t scale, uint8_t min) {
    uint8_t* s = block.scales;
    if (j < 4) {
      s[j] = static_cast<uint8_t>(s[j] | scale);
      s[j + 4] = static_cast<uint8_t>(s[j + 4] | min);
    } else {
      s[j + 4] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
      s[j - 4] = static_cast<uint8_t>(s[j - 4] | (scale >> 4) << 6);
      s[j] = static_cast<uint8_t>(s[j] | (min >> 4) << 6);
    }
  }
};

}  // namespace smallmind::quant
