// Matrix products over panels (numerics.md, "Matrix products"): per row and block c = exact integer
// dot, s = fl(w_scale * d), acc = fma(float(c), s, acc); a format with an offset then does acc =
// fma(offset, fl(d * sum), acc). Blocks in the order of K, one accumulator a row.
#pragma once

#include "kernels/kernels.h"
#include "quant/formats.h"

namespace smallmind::kernel {

// How far ahead of its use a panel is fetched from memory by the first tile of tokens.
inline constexpr size_t kPrefetchBytes = 5120;

// Fetches the next stretch of a panel stream, in proportion to the progress through it.
template <class S>
inline void prefetch_stream(const std::byte* panel, size_t panel_bytes, size_t n_steps,
                            size_t step) {
  const size_t from = panel_bytes * step / n_steps, to = panel_bytes * (step + 1) / n_steps;
  for (size_t line = from & ~size_t{63}; line < to; line += 64)
    __builtin_prefetch(panel + kPrefetchBytes + line, 0, 3);
}

// Adds groups [kFirst, kLast) of a block to a dot.
template <class S, class F, size_t kFirst, size_t kLast>
inline void dot_groups(typename S::Dot& dot, const quant::Codes<S>& codes, const int8_t* inputs) {
  if constexpr (kFirst < kLast) {
    S::template dot_add<F::kCodeBits, F::kSigned, static_cast<int>(kFirst)>(
        dot, codes.group[kFirst], inputs + 4 * kFirst);
    dot_groups<S, F, kFirst + 1, kLast>(dot, codes, inputs);
  }
}

// Codes enter the dot offset by 2^this; -1: not at all.
template <class S, class F>
inline constexpr int kOffsetLog2 = F::kSigned&& S::kUnsignedDot ? 7 : F::kZeroPointLog2;

template <class S, class F>
inline typename S::Dot start_dot(const int32_t* sum) {
  if constexpr (kOffsetLog2<S, F> >= 0)
    return S::template dot_start_offset<kOffsetLog2<S, F>>(sum);
  else
    return S::dot_start();
}

// The dot of groups [kFirst, kLast) with one block of inputs; sums point at the input codes' sums
// of the same columns.
template <class S, class F, bool kFine, size_t kFirst, size_t kLast>
inline typename S::Row block_dot(const quant::Codes<S>& codes, const Activations& a, size_t at,
                                 const int32_t* sum, const int32_t* low_sum) {
  auto dot = start_dot<S, F>(sum);
  dot_groups<S, F, kFirst, kLast>(dot, codes, a.codes + at * quant::kBlockColumns);
  if constexpr (kFine) {
    auto low = start_dot<S, F>(low_sum);
    dot_groups<S, F, kFirst, kLast>(low, codes, a.low_codes + at * quant::kBlockColumns);
    dot = S::dot_planes(dot, low);
  }
  return S::dot_to_row(dot);
}

// One strip of rows times kTokens tokens.
template <class S, class F, bool kFine, size_t kTokens, bool kPrefetch>
inline void integer_tile(const std::byte* panel, size_t panel_bytes, size_t row,
                         const Activations& a, size_t token, typename S::Row (&acc)[kTokens]) {
  const size_t n_blocks = a.n_columns / quant::kBlockColumns;
  for (auto& lane : acc) lane = S::row_set1(0.0f);
  for (size_t b = 0; b < n_blocks; ++b) {
    if constexpr (kPrefetch) prefetch_stream<S>(panel, panel_bytes, n_blocks, b);
    quant::Codes<S> codes;
    F::template codes<S>(panel, n_blocks, b, row, codes);
    if constexpr (F::kSigned && S::kUnsignedDot)
      for (auto& group : codes.group) group = S::flip_sign_bits(group);
    const auto scale = F::template scale<S>(panel, n_blocks, b, 0, row);
    for (size_t t = 0; t < kTokens; ++t) {
      const size_t at = (token + t) * n_blocks + b;
      const auto d = S::row_set1(a.scales[at]);
      if constexpr (F::kScalesPerBlock == 1) {
        const auto c = block_dot<S, F, kFine, 0, 8>(codes, a, at, a.sums + at, a.low_sums + at);
        acc[t] = S::fma(c, S::mul(scale, d), acc[t]);
      } else {
        const auto scale_high = F::template scale<S>(panel, n_blocks, b, 1, row);
        const auto low = block_dot<S, F, kFine, 0, 4>(codes, a, at, a.half_sums + 2 * at,
                                                      a.low_half_sums + 2 * at);
        const auto high = block_dot<S, F, kFine, 4, 8>(codes, a, at, a.half_sums + 2 * at + 1,
                                                       a.low_half_sums + 2 * at + 1);
        acc[t] = S::fma(low, S::mul(scale, d), acc[t]);
        acc[t] = S::fma(high, S::mul(scale_high, d), acc[t]);
      }
      if constexpr (F::kHasMin) {
        const auto offset = F::template offset<S>(panel, n_blocks, b, row);
        acc[t] = S::fma(offset, S::row_set1(a.scaled_sums[at]), acc[t]);
      }
    }
  }
}

template <class S, class F, size_t kTokens, bool kPrefetch>
inline void float_tile(const std::byte* panel, size_t panel_bytes, size_t row, const Activations& a,
                       size_t token, typename S::Row (&acc)[kTokens]) {
  for (auto& lane : acc) lane = S::row_set1(0.0f);
  const float* x = a.values + token * a.n_columns;
  for (size_t c = 0; c < a.n_columns; ++c) {
    if constexpr (kPrefetch) prefetch_stream<S>(panel, panel_bytes, a.n_columns, c);
    const auto w = F::template weights<S>(panel, c, row);
    for (size_t t = 0; t < kTokens; ++t)
      acc[t] = S::fma(w, S::row_set1(x[t * a.n_columns + c]), acc[t]);
  }
}

template <class S, class F, bool kFine, size_t kTokens, bool kPrefetch>
void panel_tile(const PackedMatrix& w, size_t panel, const Activations& a, size_t token, float* out,
                size_t out_stride) {
  const std::byte* bytes = w.panels + panel * w.panel_bytes;
  for (size_t row = 0; row < quant::kPanelRows; row += S::kRows) {
    const size_t first = panel * quant::kPanelRows + row;
    if (first >= w.n_rows) return;
    typename S::Row acc[kTokens];
    if constexpr (F::kInteger)
      integer_tile<S, F, kFine, kTokens, kPrefetch>(bytes, w.panel_bytes, row, a, token, acc);
    else
      float_tile<S, F, kTokens, kPrefetch>(bytes, w.panel_bytes, row, a, token, acc);
    for (size_t t = 0; t < kTokens; ++t) {
      float* to = out + (token + t) * out_stride + first;
      if (first + S::kRows <= w.n_rows) {
        S::store_row(to, acc[t]);
      } else {
        float rows[S::kRows];
        S::store_row(rows, acc[t]);
        for (size_t r = 0; first + r < w.n_rows; ++r) to[r] = rows[r];
      }
    }
  }
}

// Tiles of kTokens while they fit, then smaller ones.
template <class S, class F, bool kFine, size_t kTokens>
void panel_tokens(const PackedMatrix& w, size_t panel, const Activations& a, size_t token,
                  size_t n_tokens, float* out, size_t out_stride) {
  for (; token + kTokens <= n_tokens; token += kTokens) {
    if (token == 0)
      panel_tile<S, F, kFine, kTokens, true>(w, panel, a, token, out, out_stride);
    else
      panel_tile<S, F, kFine, kTokens, false>(w, panel, a, token, out, out_stride);
  }
  if constexpr (kTokens > 1)
    if (token < n_tokens)
      panel_tokens<S, F, kFine, kTokens / 2>(w, panel, a, token, n_tokens, out, out_stride);
}

template <class S>
void matmul(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
            size_t n_tokens, float* out, size_t out_stride) {
  quant::Formats::visit(w.type, [&]<class F>() {
    for (size_t p = first_panel; p < first_panel + n_panels; ++p) {
      if (F::kInteger && a.low_codes != nullptr)
        panel_tokens<S, F, F::kInteger, S::kMaxTile>(w, p, a, 0, n_tokens, out, out_stride);
      else
        panel_tokens<S, F, false, S::kMaxTile>(w, p, a, 0, n_tokens, out, out_stride);
    }
  });
}

}  // namespace smallmind::kernel
