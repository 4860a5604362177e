// A packed matrix of any format with random blocks.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"
#include "quant/formats.h"
#include "quant/pack.h"

namespace smallmind {

inline std::vector<gguf::TensorType> all_formats() {
  std::vector<gguf::TensorType> types;
  quant::Formats::for_each([&]<class F>() { types.push_back(F::kType); });
  return types;
}

inline bool is_code_times_scale(gguf::TensorType type) {
  using Type = gguf::TensorType;
  return type == Type::kQ4_0 || type == Type::kQ5_0 || type == Type::kQ8_0 || type == Type::kQ6_K;
}

class RandomMatrix {
 public:
  // Weights of about 1. REQUIRES: n_columns a multiple of 256.
  RandomMatrix(gguf::TensorType type, size_t n_rows, size_t n_columns, std::mt19937& rng)
      : file_(n_rows * quant::row_bytes(type, n_columns)),
        panels_((n_rows + 15) / 16 * quant::panel_bytes(type, n_columns)),
        view_{type, n_rows, n_columns, quant::panel_bytes(type, n_columns), panels_.data()} {
    for (auto& b : file_) b = static_cast<std::byte>(rng());
    quant::Formats::visit(type, [&]<class F>() { set_scales<F>(rng); });
    pack();
  }

  const PackedMatrix& view() const { return view_; }
  std::vector<float> row(size_t i) const {
    std::vector<float> values(view_.n_columns);
    quant::dequantize(view_.type, file_row(i), values);
    return values;
  }
  void copy_row(size_t from, size_t to) {
    const auto bytes = file_row(from);
    std::memcpy(file_.data() + to * bytes.size(), bytes.data(), bytes.size());
    pack();
  }
  // All bytes of all blocks but their scales.
  void fill(uint8_t value, std::mt19937& rng) {
    std::fill(file_.begin(), file_.end(), std::byte{value});
    quant::Formats::visit(view_.type, [&]<class F>() { set_scales<F>(rng); });
    pack();
  }
  // Of the last block of a row; binary16.
  void set_last_scale(size_t i, uint16_t d) {
    quant::Formats::visit(view_.type, [&]<class F>() {
      if constexpr (F::kInteger) {
        using Block = typename F::Block;
        std::byte* const at = file_.data() + (i + 1) * file_row(0).size() - sizeof(Block);
        Block block;
        std::memcpy(&block, at, sizeof block);
        block.d = d;
        std::memcpy(at, &block, sizeof block);
      }
    });
    pack();
  }

 private:
  std::span<const std::byte> file_row(size_t i) const {
    const size_t n_bytes = quant::row_bytes(view_.type, view_.n_columns);
    return std::span(file_).subspan(i * n_bytes, n_bytes);
  }

  template <class F>
  void set_scales(std::mt19937& rng) {
    using Block = typename F::Block;
    for (size_t at = 0; at < file_.size(); at += sizeof(Block)) {
      Block block;
      std::memcpy(&block, file_.data() + at, sizeof block);
      const auto scale = static_cast<uint16_t>(0x2000 + rng() % 0x400);  // 2^-7 to 2^-6
      if constexpr (F::kInteger) {
        block.d = scale;
        if constexpr (requires { block.m; }) block.m = scale;
        if constexpr (requires { block.dmin; }) block.dmin = scale;
      } else if constexpr (std::is_same_v<Block, float>) {
        block = static_cast<float>(rng() % 2001) / 1e3f - 1.0f;
      } else {
        block = static_cast<uint16_t>(0x3800 + rng() % 0x400 + rng() % 2 * 0x8000);
      }
      std::memcpy(file_.data() + at, &block, sizeof block);
    }
  }

  void pack() {
    std::memset(panels_.data(), 0, panels_.bytes());
    for (size_t first = 0; first < view_.n_rows; first += 16)
      quant::pack_panel(view_.type, file_row(first).data(),
                        std::min<size_t>(16, view_.n_rows - first), view_.n_columns,
                        panels_.data() + first / 16 * view_.panel_bytes);
  }

  std::vector<std::byte> file_;
  AlignedBuffer<std::byte> panels_;
  PackedMatrix view_;
};

}  // namespace smallmind
