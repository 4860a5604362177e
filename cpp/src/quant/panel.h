// The layout in which weights are computed with, shared by all formats.
//
// A matrix of n_rows x n_columns is cut into panels of 16 rows; missing rows of the last panel are
// zero. A panel of an integer format is a sequence of blocks of 32 columns, of a float format one
// of columns. 8 of them are a chunk, the last chunk may be shorter: within a chunk a format has
// regions of its own for codes and for scales, and the whole is read from memory as one stream,
// front to back. The codes of a block come as 8 groups of 4 columns; a group is 64 bytes, byte 4 *
// row + k belongs to column 4 * group + k, so that one 64-byte load feeds a 4-way dot product for
// all 16 rows. Formats of fewer bits pack two groups into one 64-byte line by nibbles (group l low,
// group l
// + 4 high). A chunk of a float format is [column][16 rows].
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gguf/layout.h"

namespace smallmind::quant {

inline constexpr size_t kPanelRows = 16;
inline constexpr size_t kBlockColumns = 32;
inline constexpr size_t kGroups = 8;
inline constexpr size_t kGroupBytes = 64;
inline constexpr size_t kPanelAlignment = 64;
inline constexpr size_t kChunkUnits = 8;  // blocks, or columns of a float format

// A format with kCodeLines packs the code bytes of a block as they are, 4 to each of so many lines
// from the block's first on; its pack(), which is given the block's bytes, does the rest. Without
// kCodeLines pack() is given the Block and does all.

// A format's unit in columns.
template <class F>
inline constexpr size_t kUnitColumns = F::kInteger ? kBlockColumns : 1;

// The distance of whole chunks. A shorter chunk at the end of a panel has its own F::chunk_bytes.
template <class F>
inline constexpr size_t kChunkStride = (F::chunk_bytes(kChunkUnits) + kPanelAlignment - 1) &
                                       ~(kPanelAlignment - 1);

// The codes of one block of 32 columns for the rows of one strip (S::kRows of the panel's 16 rows).
template <class S>
struct Codes {
  typename S::Bytes group[kGroups];
};

template <class T>
T load_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store_as(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// (Internal linkage: a shared copy compiled for one instruction set must not serve another.)
// The first byte of group `group`'s line for rows from `row` on, within a block's codes.
static inline constexpr size_t group_offset(size_t group, size_t row) {
  return group * kGroupBytes + row * 4;
}

// Unpacks the 4-line nibble form: low nibbles are groups 0-3, high nibbles groups 4-7.
template <class S>
void unpack_nibbles(const std::byte* lines, size_t row, Codes<S>& out) {
  for (size_t l = 0; l < 4; ++l) {
    const auto bytes = S::load_bytes(lines + group_offset(l, row));
    out.group[l] = S::low_nibbles(bytes);
    out.group[l + 4] = S::high_nibbles(bytes);
  }
}

}  // namespace smallmind::quant
