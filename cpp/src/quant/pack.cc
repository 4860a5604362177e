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

using TwoPairs = uint64_t __attribute__((vector_size(16)));

// Four words each of two rows, word by word: the even words of both, and the odd ones.
struct Pairs {
  TwoPairs even, odd;

  Pairs(const std::byte* first, const std::byte* second) {
    constexpr uint64_t kFirstWord = 0xffffffffu;
    const auto a = load_as<TwoPairs>(first), b = load_as<TwoPairs>(second);
    even = (a & kFirstWord) | b << 32;
    odd = a >> 32 | (b & ~kFirstWord);
  }
};

// Four rows of four words become four lines with a word of each row.
void interleave_four(const std::byte* rows, size_t row_bytes, std::byte* lines) {
  const Pairs a(rows, rows + row_bytes), b(rows + 2 * row_bytes, rows + 3 * row_bytes);
  store_as(lines, TwoPairs{a.even[0], b.even[0]});
  store_as(lines + kGroupBytes, TwoPairs{a.odd[0], b.odd[0]});
  store_as(lines + 2 * kGroupBytes, TwoPairs{a.even[1], b.even[1]});
  store_as(lines + 3 * kGroupBytes, TwoPairs{a.odd[1], b.odd[1]});
}

// The codes of one block of all rows into its lines: four bytes of every row a line.
template <size_t kLines>
void pack_codes(const std::byte* codes, size_t n_rows, size_t row_bytes, std::byte* lines) {
  size_t row = 0;
  for (; row + 4 <= n_rows; row += 4) {
    for (size_t l = 0; l < kLines; l += 4)
      interleave_four(codes + row * row_bytes + 4 * l, row_bytes, lines + group_offset(l, row));
  }
  for (; row < n_rows; ++row) {
    for (size_t l = 0; l < kLines; ++l)
      std::memcpy(lines + group_offset(l, row), codes + row * row_bytes + 4 * l, 4);
  }
}

// All rows of a block before the next block: they share the lines that are written.
template <class F>
void pack_rows(const std::byte* rows, size_t n_rows, size_t n_columns, std::byte* panel) {
  using Block = typename F::Block;
  const size_t n_blocks = n_columns / F::kFileBlock;
  const size_t row_bytes = n_blocks * sizeof(Block);
  for (size_t b = 0; b < n_blocks; ++b) {
    const Place<F> place(b, n_columns);
    const std::byte* from = rows + b * sizeof(Block);
    std::byte* chunk = panel + place.chunk_at;
    if constexpr (requires { F::kCodeLines; }) {
      pack_codes<F::kCodeLines>(from + offsetof(Block, codes), n_rows, row_bytes,
                                chunk + place.i_block * F::kCodeLines * kGroupBytes);
      for (size_t row = 0; row < n_rows; ++row)
        F::pack(from + row * row_bytes, place.i_block, row, place.n_units, chunk);
    } else {
      for (size_t row = 0; row < n_rows; ++row)
        F::pack(load_as<Block>(from + row * row_bytes), place.i_block, row, place.n_units, chunk);
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
