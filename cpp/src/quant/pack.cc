#include "quant/pack.h"

#include <cstring>

#include "quant/formats.h"

namespace smallmind::quant {
namespace {

// The unit in which a format counts its panel: blocks of 32 columns, or columns for float formats.
template <class F>
size_t panel_units(size_t n_columns) {
  return F::kInteger ? n_columns / kBlockColumns : n_columns;
}

template <class F>
void pack_rows(const std::byte* rows, size_t n_rows, size_t n_columns, std::byte* panel) {
  const size_t n_blocks = n_columns / F::kFileBlock;
  const size_t n_units = panel_units<F>(n_columns);
  for (size_t row = 0; row < n_rows; ++row) {
    for (size_t b = 0; b < n_blocks; ++b) {
      typename F::Block block;
      std::memcpy(&block, rows + (row * n_blocks + b) * sizeof block, sizeof block);
      F::pack(block, b, row, n_units, panel);
    }
  }
}

}  // namespace

bool has_codes(gguf::TensorType type) {
  bool result = false;
  Formats::visit(type, [&]<class F>() { result = F::kInteger; });
  return result;
}

size_t row_bytes(gguf::TensorType type, size_t n_columns) {
  size_t bytes = 0;
  Formats::visit(type,
                 [&]<class F>() { bytes = n_columns / F::kFileBlock * sizeof(typename F::Block); });
  return bytes;
}

size_t panel_bytes(gguf::TensorType type, size_t n_columns) {
  size_t bytes = 0;
  Formats::visit(type, [&]<class F>() { bytes = F::panel_bytes(panel_units<F>(n_columns)); });
  return (bytes + kPanelAlignment - 1) / kPanelAlignment * kPanelAlignment;
}

void dequantize(gguf::TensorType type, std::span<const std::byte> blocks, std::span<float> out) {
  Formats::visit(type, [&]<class F>() {
    for (size_t b = 0; b * F::kFileBlock < out.size(); ++b) {
      typename F::Block block;
      std::memcpy(&block, blocks.data() + b * sizeof block, sizeof block);
      F::dequantize(block, out.data() + b * F::kFileBlock);
    }
  });
}

void pack_panel(gguf::TensorType type, const std::byte* rows, size_t n_rows, size_t n_columns,
                std::byte* panel) {
  Formats::visit(type, [&]<class F>() { pack_rows<F>(rows, n_rows, n_columns, panel); });
}

void dequantize_row(gguf::TensorType type, const std::byte* panel, size_t row, size_t n_columns,
                    float* out) {
  Formats::visit(type, [&]<class F>() {
    for (size_t b = 0; b < n_columns / F::kFileBlock; ++b) {
      typename F::Block block;
      F::unpack(panel, b, row, panel_units<F>(n_columns), block);
      F::dequantize(block, out + b * F::kFileBlock);
    }
  });
}

}  // namespace smallmind::quant
