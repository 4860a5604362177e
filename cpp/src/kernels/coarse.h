// Coarse products: see model/output_head.h, where their error is bounded.
#pragma once

#include "kernels/matmul.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// One panel times tokens [token, token + n_tokens), at most S::kMaxTile: as panel_tile, but that
// both planes of the inputs' codes enter in fine blocks only, and only the highest row is kept.
template <class S, class F>
void coarse_tile(const PackedMatrix& w, size_t panel, const Activations& a, const bool* is_fine,
                 size_t token, size_t n_tokens, float* out, size_t out_stride) {
  constexpr size_t kStride = quant::kChunkStride<F>;
  const size_t n_blocks = a.n_columns / quant::kBlockColumns;
  float rows[S::kMaxTile][quant::kPanelRows];
  for (size_t row = 0; row < quant::kPanelRows; row += S::kRows) {
    typename S::Row acc[S::kMaxTile];
    for (size_t t = 0; t < n_tokens; ++t) acc[t] = S::row_set1(0.0f);
    const std::byte* chunk = w.panels + panel * w.panel_bytes;
    Prefetcher<S> ahead(chunk + kPrefetchBytes);
    for (size_t first = 0; first < n_blocks; first += quant::kChunkUnits, chunk += kStride) {
      const size_t left = n_blocks - first;
      const size_t n = left < quant::kChunkUnits ? left : quant::kChunkUnits;
      for (size_t b = 0; b < n; ++b) {
        if (token == 0) ahead.advance(kStride / quant::kChunkUnits);
        const WeightBlock<S, F> block(chunk, n, b, row);
        const size_t at = token * n_blocks + first + b;
        if (is_fine[first + b]) {
          for (size_t t = 0; t < n_tokens; ++t)
            acc[t] = add_block<S, F, true>(block, a, at + t * n_blocks, acc[t]);
        } else {
          for (size_t t = 0; t < n_tokens; ++t)
            acc[t] = add_block<S, F, false>(block, a, at + t * n_blocks, acc[t]);
        }
      }
    }
    for (size_t t = 0; t < n_tokens; ++t) S::store_row(rows[t] + row, acc[t]);
  }
  const size_t n_rows = w.n_rows - panel * quant::kPanelRows;
  for (size_t t = 0; t < n_tokens; ++t)
    out[(token + t) * out_stride] =
        max_lanes<S>(load_partial<S>(rows[t], n_rows, -__builtin_inff()));
}

template <class S>
void coarse_maxima(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
                   const bool* is_fine, size_t n_tokens, float* out, size_t out_stride) {
  quant::Formats::visit(w.type, [&]<class F>() {
    if constexpr (F::kInteger) {
      for (size_t p = first_panel; p < first_panel + n_panels; ++p) {
        for (size_t token = 0; token < n_tokens; token += S::kMaxTile) {
          const size_t left = n_tokens - token;
          coarse_tile<S, F>(w, p, a, is_fine, token, left < S::kMaxTile ? left : S::kMaxTile,
                            out + p, out_stride);
        }
      }
    }
  });
}

}  // namespace smallmind::kernel
