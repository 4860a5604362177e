// F16: binary16, widened to float.
#pragma once

#include <cstring>

#include "base/half.h"
#include "quant/panel.h"

namespace smallmind::quant {

struct F16 {
  static constexpr gguf::TensorType kType = gguf::TensorType::kF16;
  static constexpr bool kInteger = false;
  static constexpr size_t kFileBlock = 1;

  using Block = uint16_t;

  static void dequantize(const Block& block, float* out) { *out = half_to_float(block); }

  // Chunk: [column][16 rows].
  static constexpr size_t chunk_bytes(size_t n_columns) {
    return n_columns * kPanelRows * sizeof(Block);
  }

  static void pack(const Block& block, size_t column, size_t row, size_t, std::byte* chunk) {
    store_as(chunk + (column * kPanelRows + row) * sizeof(Block), block);
  }
  static void unpack(const std::byte* chunk, size_t column, size_t row, size_t, Block& block) {
    block = load_as<Block>(chunk + (column * kPanelRows + row) * sizeof(Block));
  }

  template <class S>
  static typename S::Row weights(const std::byte* chunk, size_t column, size_t row) {
    return S::load_half(chunk + (column * kPanelRows + row) * sizeof(Block));
  }
};

}  // namespace smallmind::quant
