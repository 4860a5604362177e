// Coarse products: see model/output_head.h, where their error is bounded.
#pragma once

#include "kernels/matmul.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// What takes coarse products: S, or its own way, which may want small codes of inputs.
template <class S>
struct CoarseSet {
  using Type = S;
};
template <class S>
requires requires { typename S::Coarse; }
struct CoarseSet<S> {
  using Type = typename S::Coarse;
};
template <class S>
constexpr int coarse_limit() {
  using Set = typename CoarseSet<S>::Type;
  if constexpr (requires { Set::kInputLimit; })
    return Set::kInputLimit;
  else
    return 127;
}

// The panels from `panel` on whose strips are taken together, times tokens [token, token +
// n_tokens): as panel_tile, but that both planes of the inputs' codes enter in fine blocks only,
// and only the highest row of each panel is kept.
template <class S, class F, size_t kStrips, size_t kTile, Fetch kFetch>
void coarse_tile(const PackedMatrix& w, size_t panel, const Activations& a, const bool* is_fine,
                 size_t token, size_t n_tokens, float* out, size_t out_stride) {
  constexpr size_t kPanels = kPanelsOf<S, kStrips>;
  const size_t n_blocks = a.n_columns / quant::kBlockColumns;
  const size_t n = tile_size<S, kTile>(n_tokens);
  float rows[kTile][kPanels][quant::kPanelRows];
  for (size_t row = 0; row < quant::kPanelRows; row += kStrips * S::kRows) {
    typename S::Row acc[kTile][kStrips];
    for (size_t t = 0; t < n; ++t)
      for (auto& sums : acc[t]) sums = S::row_set1(0.0f);
    for_each_block<S, F, kFetch, kStrips>(
        w.panels + panel * w.panel_bytes, w.panel_bytes, row,
        n_blocks, [&](const auto& blocks, size_t i) __attribute__((always_inline)) {
          const size_t at = token * n_blocks + i;
          if (is_fine[i])
            add_tokens<S, F, true>(blocks, a, at, n_blocks, n, acc);
          else
            add_tokens<S, F, false>(blocks, a, at, n_blocks, n, acc);
        });
    for (size_t t = 0; t < n; ++t)
      for (size_t s = 0; s < kStrips; ++s)
        S::store_row(rows[t][panel_of<S>(s)] + row + row_of<S>(s), acc[t][s]);
  }
  for (size_t p = 0; p < kPanels; ++p) {
    const size_t n_rows = w.n_rows - (panel + p) * quant::kPanelRows;
    for (size_t t = 0; t < n; ++t)
      out[(token + t) * out_stride + panel + p] =
          max_lanes<S>(load_partial<S>(rows[t][p], n_rows, -__builtin_inff()));
  }
}

template <class Base, bool kTwo = kTakesTwoStrips<Base>>
void coarse_maxima(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
                   const bool* is_fine, size_t n_tokens, float* out, size_t out_stride) {
  using S = typename CoarseSet<Base>::Type;
  quant::Formats::visit(w.type, [&]<class F>() {
    if constexpr (F::kInteger) {
      for_each_panel<S, F, kTwo>(
          first_panel, n_panels, n_tokens, [&]<size_t kStrips>(size_t panel) {
            in_tiles<S, F, false>(n_tokens,
                                  [&]<size_t kTile, Fetch kFetch>(size_t token, size_t n) {
                                    coarse_tile<S, F, kStrips, kTile, kFetch>(
                                        w, panel, a, is_fine, token, n, out, out_stride);
                                  });
          });
    }
  });
}

}  // namespace smallmind::kernel
