// Products of integer weights over panels (numerics.md, "Matrix products"): per row and block c =
// exact integer dot, s = fl(w_scale * d), acc = fma(float(c), s, acc); a format with an offset then
// does acc = fma(offset, fl(d * sum), acc). Blocks in the order of K, one accumulator a row.
//
// A panel is unpacked block by block, once for a tile of tokens; the tile's accumulators stay in
// the first-level cache. The dots of different tokens are independent, so that the processor
// overlaps them. What a block passes through is always inlined: left to itself, g++ lets some
// formats' codes take the way over the stack.
#pragma once

#include "kernels/gemm.h"
#include "kernels/strip.h"

namespace smallmind::kernel {

// Adds groups [kFirst, kLast) of a block to a dot.
template <class S, class F, size_t kFirst, size_t kLast>
[[gnu::always_inline]] inline void dot_groups(typename S::Dot& dot, const quant::Codes<S>& codes,
                                              const typename S::Inputs& inputs) {
  if constexpr (kFirst < kLast) {
    S::template dot_add<F::kCodeBits, F::kSigned, static_cast<int>(kFirst)>(
        dot, codes.group[kFirst], inputs);
    dot_groups<S, F, kFirst + 1, kLast>(dot, codes, inputs);
  }
}

// Codes enter the dot offset by 2^this; -1: not at all.
template <class S, class F>
inline constexpr int kOffsetLog2 = F::kSigned&& S::kUnsignedDot ? 7 : F::kZeroPointLog2;

template <class S, class F>
[[gnu::always_inline]] inline typename S::Dot start_dot(const int32_t* minus_sum) {
  if constexpr (kOffsetLog2<S, F> >= 0)
    return S::template dot_start_offset<kOffsetLog2<S, F>>(minus_sum);
  else
    return S::dot_start();
}

// Whether a layer takes both planes of fine inputs in one dot.
template <class S>
inline constexpr bool kJoinsPlanes = requires(const int8_t* plane) {
  S::join_inputs(plane, plane);
};

// The dot of groups [kFirst, kLast) with block `at` of the inputs; minus_sum and low_minus_sum are
// of the input codes of the same columns.
template <class S, class F, bool kFine, size_t kFirst, size_t kLast>
[[gnu::always_inline]] inline typename S::Row block_dot(const quant::Codes<S>& codes,
                                                        const Activations& a, size_t at,
                                                        const int32_t* minus_sum,
                                                        const int32_t* low_minus_sum) {
  const size_t first = at * quant::kBlockColumns;
  if constexpr (kFine && kJoinsPlanes<S>) {
    auto dot = S::dot_start();
    dot_groups<S, F, kFirst, kLast>(dot, codes,
                                    S::join_inputs(a.codes + first, a.low_codes + first));
    return S::dot_to_row(dot);
  } else {
    auto dot = start_dot<S, F>(minus_sum);
    dot_groups<S, F, kFirst, kLast>(dot, codes, S::load_inputs(a.codes + first));
    if constexpr (kFine) {
      auto low = start_dot<S, F>(low_minus_sum);
      dot_groups<S, F, kFirst, kLast>(low, codes, S::load_inputs(a.low_codes + first));
      dot = S::dot_planes(dot, low);
    }
    return S::dot_to_row(dot);
  }
}

// One block of a strip of rows, unpacked.
template <class S, class F>
struct WeightBlock {
  quant::Codes<S> codes;
  typename S::Row scale[F::kScalesPerBlock];
  typename S::Row offset;

  [[gnu::always_inline]] WeightBlock(const std::byte* chunk, size_t n_blocks, size_t b,
                                     size_t row) {
    F::template codes<S>(chunk, n_blocks, b, row, codes);
    if constexpr (F::kSigned && S::kUnsignedDot)
      for (auto& group : codes.group) group = S::flip_sign_bits(group);
    for (int i = 0; i < F::kScalesPerBlock; ++i)
      scale[i] = F::template scale<S>(chunk, n_blocks, b, i, row);
    if constexpr (F::kHasMin) offset = F::template offset<S>(chunk, n_blocks, b, row);
  }
};

// acc + the product of a block with block `at` of the inputs.
template <class S, class F, bool kFine>
[[gnu::always_inline]] inline typename S::Row add_block(const WeightBlock<S, F>& w,
                                                        const Activations& a, size_t at,
                                                        typename S::Row acc) {
  const auto d = S::row_set1(a.scales[at]);
  if constexpr (F::kScalesPerBlock == 1) {
    const auto c =
        block_dot<S, F, kFine, 0, 8>(w.codes, a, at, a.minus_sums + at, a.low_minus_sums + at);
    acc = S::fma(c, S::mul(w.scale[0], d), acc);
  } else {
    const int32_t* sums = a.minus_half_sums + 2 * at;
    const int32_t* low_sums = a.low_minus_half_sums + 2 * at;
    const auto first = block_dot<S, F, kFine, 0, 4>(w.codes, a, at, sums, low_sums);
    const auto second = block_dot<S, F, kFine, 4, 8>(w.codes, a, at, sums + 1, low_sums + 1);
    acc = S::fma(first, S::mul(w.scale[0], d), acc);
    acc = S::fma(second, S::mul(w.scale[1], d), acc);
  }
  if constexpr (F::kHasMin) acc = S::fma(w.offset, S::row_set1(a.scaled_sums[at]), acc);
  return acc;
}

// One strip of rows times n_tokens tokens.
template <class S, class F, bool kFine, bool kPrefetch>
[[gnu::always_inline]] inline void integer_tile(const std::byte* panel, size_t row,
                                                const Activations& a, size_t token, size_t n_tokens,
                                                typename S::Row* acc) {
  const size_t n_blocks = a.n_columns / quant::kBlockColumns;
  constexpr size_t kStride = quant::kChunkStride<F>;
  Prefetcher<S> ahead(panel + kPrefetchBytes);
  for (size_t first = 0; first < n_blocks; first += quant::kChunkUnits, panel += kStride) {
    const size_t left = n_blocks - first;
    const size_t n = left < quant::kChunkUnits ? left : quant::kChunkUnits;
    for (size_t b = 0; b < n; ++b) {
      if constexpr (kPrefetch) ahead.advance(kStride / quant::kChunkUnits);
      const WeightBlock<S, F> block(panel, n, b, row);
      for (size_t t = 0; t < n_tokens; ++t)
        acc[t] = add_block<S, F, kFine>(block, a, (token + t) * n_blocks + first + b, acc[t]);
    }
  }
}

// One panel times tokens [token, token + n_tokens), at most kTile. A tile of one token keeps its
// accumulator in a register.
template <class S, class F, bool kFine, size_t kTile, bool kPrefetch>
void panel_tile(const PackedMatrix& w, size_t panel, const Activations& a, size_t token,
                size_t n_tokens, float* out, size_t out_stride) {
  const std::byte* bytes = w.panels + panel * w.panel_bytes;
  const size_t n = kTile == 1 ? 1 : n_tokens;
  for (size_t row = 0; row < quant::kPanelRows; row += S::kRows) {
    const size_t first = panel * quant::kPanelRows + row;
    if (first >= w.n_rows) return;
    typename S::Row acc[kTile];
    for (size_t t = 0; t < n; ++t) acc[t] = S::row_set1(0.0f);
    integer_tile<S, F, kFine, kPrefetch>(bytes, row, a, token, n, acc);
    for (size_t t = 0; t < n; ++t)
      store_rows<S>(out + (token + t) * out_stride + first, acc[t], w.n_rows - first);
  }
}

// All tokens in as few tiles as may be, of nearly equal size.
template <class S, class F, bool kFine>
void panel_tokens(const PackedMatrix& w, size_t panel, const Activations& a, size_t n_tokens,
                  float* out, size_t out_stride) {
  constexpr size_t kTile = S::kMaxTile;
  if (n_tokens == 1) return panel_tile<S, F, kFine, 1, true>(w, panel, a, 0, 1, out, out_stride);
  size_t n_tiles = (n_tokens + kTile - 1) / kTile;
  for (size_t token = 0; n_tiles > 0; --n_tiles) {
    const size_t n = (n_tokens - token + n_tiles - 1) / n_tiles;
    if (token == 0)
      panel_tile<S, F, kFine, kTile, true>(w, panel, a, token, n, out, out_stride);
    else
      panel_tile<S, F, kFine, kTile, false>(w, panel, a, token, n, out, out_stride);
    token += n;
  }
}

// What takes the products of two planes of inputs: S, or its own way for signed codes.
template <class S, class F>
struct FineSet {
  using Type = S;
};
template <class S, class F>
requires(F::kSigned&& requires { typename S::SignedFine; }) struct FineSet<S, F> {
  using Type = typename S::SignedFine;
};

template <class S>
void matmul(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
            size_t n_tokens, float* out, size_t out_stride) {
  quant::Formats::visit(w.type, [&]<class F>() {
    for (size_t p = first_panel; p < first_panel + n_panels; ++p) {
      if constexpr (!F::kInteger)
        float_tokens<S, F, S::kFloatTile>(w, p, a, 0, n_tokens, out, out_stride);
      else if (a.low_codes == nullptr)
        panel_tokens<S, F, false>(w, p, a, n_tokens, out, out_stride);
      else
        panel_tokens<typename FineSet<S, F>::Type, F, true>(w, p, a, n_tokens, out, out_stride);
    }
  });
}

}  // namespace smallmind::kernel
