#include "quant/pack.h"

#include <algorithm>
#include <cstring>

#include "quant/formats.h"

namespace smallmind::quant {
namespace {

// Where a file block stands in a panel: its chunk, how many units that has, and which of the
// chunk's file blocks it is.
template <class F>
struct Place {
  size_t chunk_at;
  size_t n_units;
  size_t i_block;

  Place(size_t file_block, size_t n_columns) {
    constexpr size_t kChunkColumns = kChunkUnits * kUnitColumns<F>;
    const size_t column = file_block * F::kFileBlock, chunk = column / kChunkColumns;
    chunk_at = chunk * kChunkStride<F>;
    n_units = std::min(kChunkColumns, n_columns - chunk * kChunkColumns) / kUnitColumns<F>;
    i_block = column % kChunkColumns / F::kFileBlock;
  }
};

template <class F>
void pack_rows(const std::byte* rows, size_t n_rows, size_t n_columns, std::byte* panel) {
  const size_t n_blocks = n_columns / F::kFileBlock;
  for (size_t row = 0; row < n_rows; ++row) {
    for (size_t b = 0; b < n_blocks; ++b) {
      typename F::Block block;
      std::memcpy(&block, rows + (row * n_blocks + b) * sizeof block, sizeof block);
      const Place<F> place(b, n_columns);
      F::pack(block, place.i_block, row, place.n_units, panel + place.chunk_at);
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
  Formats::visit(type, [&]<class F>() {
    const size_t n_units = n_columns / kUnitColumns<F>;
    bytes = n_units / kChunkUnits * kChunkStride<F> + F::chunk_bytes(n_units % kChunkUnits);
  });
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
      const Place<F> place(b, n_columns);
      F::unpack(panel + place.chunk_at, place.i_block, row, place.n_units, block);
      F::dequantize(block, out + b * F::kFileBlock);
    }
  });
}

}  // namespace smallmind::quant
