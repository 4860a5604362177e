// Weights between the file's rows, plain floats and the panels that kernels read.
#pragma once

#include <cstddef>
#include <span>

#include "gguf/layout.h"

namespace smallmind::quant {

// All functions are pure and thread-safe. REQUIRES everywhere: n_columns is a multiple of the
// type's block (checked when a file is read) and, for integer types, of 32.

// True for formats of integer codes, whose products read quantised inputs; false for plain floats.
bool has_codes(gguf::TensorType type);

size_t row_bytes(gguf::TensorType type, size_t n_columns);    // of a row in the file
size_t panel_bytes(gguf::TensorType type, size_t n_columns);  // of 16 rows packed, a multiple of 64

// Plain floats of file blocks, one multiplication and one addition a weight: the same bits as the
// reference implementation.
void dequantize(gguf::TensorType type, std::span<const std::byte> blocks, std::span<float> out);

// Packs n_rows (1 ... 16) consecutive file rows into one panel; missing rows become zeros. The
// panel must be zeroed where n_rows < 16.
void pack_panel(gguf::TensorType type, const std::byte* rows, size_t n_rows, size_t n_columns,
                std::byte* panel);

// Row `row` (0 ... 15) of a panel as plain floats, the same bits as dequantize of the file's row.
void dequantize_row(gguf::TensorType type, const std::byte* panel, size_t row, size_t n_columns,
                    float* out);

}  // namespace smallmind::quant
