// The lengths of rows of weights.
#pragma once

#include "kernels/matmul.h"

namespace smallmind::kernel {

// The squares of the codes of groups [first, last) of a block, summed for each row.
template <class S, class F>
inline typename S::Row sum_of_squares(const WeightBlock<S, F>& w, size_t first, size_t last) {
  constexpr int kOffset = kOffsetLog2<S, F> >= 0 ? 1 << kOffsetLog2<S, F> : 0;
  auto sum = S::dot_start();
  for (size_t g = first; g < last; ++g) S::template add_squares<kOffset>(sum, w.codes.group[g]);
  return S::dot_to_row(sum);
}

// The largest norm among the rows of a panel, rounded up; infinite where one is not finite.
template <class S, class F>
float panel_norm(const std::byte* panel, size_t n_columns) {
  constexpr float kRoundingUp = 1.0f + 0x1p-10f;  // the sum of squares is exact to k 2^-24
  const size_t n_blocks = n_columns / quant::kBlockColumns;
  float most = 0.0f;
  for (size_t row = 0; row < quant::kPanelRows; row += S::kRows) {
    auto squares = S::row_set1(0.0f);
    for_each_block<S, F, Fetch::kNone, 1>(
        panel, 0, row, n_blocks, [&](const auto& blocks, size_t) __attribute__((always_inline)) {
          constexpr size_t kGroups = quant::kGroups / F::kScalesPerBlock;
          const WeightBlock<S, F>& block = blocks[0];
          for (size_t i = 0; i < F::kScalesPerBlock; ++i)
            squares = S::fma(sum_of_squares<S, F>(block, i * kGroups, (i + 1) * kGroups),
                             S::mul(block.scale[i], block.scale[i]), squares);
        });
    float rows[S::kRows];
    S::store_row(rows, squares);
    for (const float x : rows) {
      if (!(x < __builtin_inff())) return __builtin_inff();
      most = x > most ? x : most;
    }
  }
  return __builtin_sqrtf(most) * kRoundingUp;
}

template <class S>
void panel_norms(const PackedMatrix& w, size_t first_panel, size_t n_panels, float* out) {
  quant::Formats::visit(w.type, [&]<class F>() {
    for (size_t p = 0; p < n_panels; ++p) {
      out[p] = __builtin_inff();
      if constexpr (requires { requires !F::kHasMin; })
        out[p] = panel_norm<S, F>(w.panels + (first_panel + p) * w.panel_bytes, w.n_columns);
    }
  });
}

}  // namespace smallmind::kernel
