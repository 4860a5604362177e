// Products of float weights (F32, F16, BF16): out[token][row] = the sum over k of w[row][k] *
// x[token][k], the weights widened to float, one accumulator an output, fused multiply-adds in the
// order of K (numerics.md, "Matrix products").
//
// A panel is the packed operand of a matrix product: 16 rows of a column stand side by side. A tile
// of S::kFloatTile tokens by one panel keeps its sums in registers from the first column to the
// last, so that a column costs one load of weights and a broadcast a token, and tokens are read
// from the second-level cache once a panel.
#pragma once

#include "kernels/strip.h"

namespace smallmind::kernel {

// One panel times kTokens tokens from `token` on.
template <class S, class F, size_t kTokens, Fetch kFetch>
void float_tile(const PackedMatrix& w, size_t panel, const Activations& a, size_t token, float* out,
                size_t out_stride) {
  constexpr size_t kStrips = quant::kPanelRows / S::kRows, kColumnBytes = F::chunk_bytes(1);
  const std::byte* bytes = w.panels + panel * w.panel_bytes;
  const float* x = a.values + token * a.n_columns;
  Prefetcher<S, kFetch> ahead(bytes, w.panel_bytes);
  typename S::Row acc[kStrips][kTokens];
  for (auto& strip : acc)
    for (auto& sum : strip) sum = S::row_set1(0.0f);
  for (size_t c = 0; c < a.n_columns; ++c) {
    ahead.advance(kColumnBytes);
    typename S::Row weights[kStrips];
    for (size_t s = 0; s < kStrips; ++s)
      weights[s] = F::template weights<S>(bytes, c, s * S::kRows);
    for (size_t t = 0; t < kTokens; ++t) {
      const auto input = S::row_set1(x[t * a.n_columns + c]);
      for (size_t s = 0; s < kStrips; ++s) acc[s][t] = S::fma(weights[s], input, acc[s][t]);
    }
  }
  for (size_t s = 0; s < kStrips; ++s) {
    const size_t row = panel * quant::kPanelRows + s * S::kRows;
    if (row >= w.n_rows) return;
    for (size_t t = 0; t < kTokens; ++t)
      store_rows<S>(out + (token + t) * out_stride + row, acc[s][t], w.n_rows - row);
  }
}

// Tokens [token, n_tokens) in tiles of kTokens, and what is left in tiles of half as many.
template <class S, class F, size_t kTokens>
void float_tokens(const PackedMatrix& w, size_t panel, const Activations& a, size_t token,
                  size_t n_tokens, float* out, size_t out_stride) {
  for (; n_tokens - token >= kTokens; token += kTokens) {
    if (token == 0)
      float_tile<S, F, kTokens, Fetch::kFirstLevel>(w, panel, a, token, out, out_stride);
    else
      float_tile<S, F, kTokens, Fetch::kNone>(w, panel, a, token, out, out_stride);
  }
  if constexpr (kTokens > 1)
    float_tokens<S, F, kTokens / 2>(w, panel, a, token, n_tokens, out, out_stride);
}

}  // namespace smallmind::kernel
