// Products of integer weights over panels (numerics.md, "Matrix products"): per row and block c =
// exact integer dot, s = fl(w_scale * d), acc = fma(float(c), s, acc); a format with an offset then
// does acc = fma(offset, fl(d * sum), acc). Blocks in the order of K, one accumulator a row.
//
// A panel is unpacked block by block, once for a tile of tokens; the tile's accumulators stay in
// registers, those of a large tile in the first-level cache. The dots of different tokens are
// independent, so that the processor overlaps them. A strip is S::kRows rows of a panel.
// Two neighbouring strips, of two panels or of one, may pass over a tile's inputs together,
// and each group of them is loaded once for both. What a block passes through is always inlined:
// left to itself, g++ lets some formats' codes take the way over the stack.
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

// Adds the groups from kFirst on of a block's first half to one dot and those of its second half to
// another, in turn: neither waits for the other.
template <class S, class F, size_t kFirst>
[[gnu::always_inline]] inline void dot_halves(typename S::Dot& one, typename S::Dot& other,
                                              const quant::Codes<S>& codes,
                                              const typename S::Inputs& inputs) {
  constexpr size_t kHalf = quant::kGroups / 2;
  if constexpr (kFirst < kHalf) {
    dot_groups<S, F, kFirst, kFirst + 1>(one, codes, inputs);
    dot_groups<S, F, kHalf + kFirst, kHalf + kFirst + 1>(other, codes, inputs);
    dot_halves<S, F, kFirst + 1>(one, other, codes, inputs);
  }
}

// Whether a layer takes a block's dot in two halves.
template <class S>
inline constexpr bool kSplitsDots = requires(typename S::Dot dot) {
  S::add_dots(dot, dot);
};

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

// The dot of groups [kFirst, kLast) with block `at` of the inputs; minus_sum and low_minus_sum are
// of the input codes of the same columns.
template <class S, class F, bool kFine, size_t kFirst, size_t kLast>
[[gnu::always_inline]] inline typename S::Row block_dot(const quant::Codes<S>& codes,
                                                        const Activations& a, size_t at,
                                                        const int32_t* minus_sum,
                                                        const int32_t* low_minus_sum) {
  const size_t first = at * quant::kBlockColumns;
  if constexpr (!kFine && kLast - kFirst == quant::kGroups && kSplitsDots<S>) {
    auto dot = start_dot<S, F>(minus_sum);
    auto second = S::dot_start();
    dot_halves<S, F, 0>(dot, second, codes, S::load_inputs(a.codes + first));
    return S::dot_to_row(S::add_dots(dot, second));
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

  // Block b of a chunk of n_blocks.
  [[gnu::always_inline]] void unpack(const std::byte* chunk, size_t n_blocks, size_t b,
                                     size_t row) {
    if constexpr (requires { S::groups_per_partial(1); })
      static_assert(F::kScalesPerBlock * S::groups_per_partial(F::kCodeBits) <= quant::kGroups,
                    "16-bit sums end with the columns of a scale");
    F::template codes<S>(chunk, n_blocks, b, row, codes);
    if constexpr (F::kSigned && S::kUnsignedDot)
      for (auto& group : codes.group) group = S::flip_sign_bits(group);
    for (int i = 0; i < F::kScalesPerBlock; ++i)
      scale[i] = F::template scale<S>(chunk, n_blocks, b, i, row);
    if constexpr (F::kHasMin) offset = F::template offset<S>(chunk, n_blocks, b, row);
  }
};

// p + at, where there is a second plane.
template <bool kFine>
[[gnu::always_inline]] inline const int32_t* low_sums_at(const int32_t* p, size_t at) {
  if constexpr (kFine)
    return p + at;
  else
    return nullptr;
}

// acc + the product of a block with block `at` of the inputs.
template <class S, class F, bool kFine>
[[gnu::always_inline]] inline typename S::Row add_block(const WeightBlock<S, F>& w,
                                                        const Activations& a, size_t at,
                                                        typename S::Row acc) {
  const auto d = S::row_set1(a.scales[at]);
  if constexpr (F::kScalesPerBlock == 1) {
    const auto c = block_dot<S, F, kFine, 0, 8>(w.codes, a, at, a.minus_sums + at,
                                                low_sums_at<kFine>(a.low_minus_sums, at));
    acc = S::fma(c, S::mul(w.scale[0], d), acc);
  } else {
    const int32_t* sums = a.minus_half_sums + 2 * at;
    const auto low_sums = [&](size_t i) { return low_sums_at<kFine>(a.low_minus_half_sums, i); };
    const auto first = block_dot<S, F, kFine, 0, 4>(w.codes, a, at, sums, low_sums(2 * at));
    const auto second =
        block_dot<S, F, kFine, 4, 8>(w.codes, a, at, sums + 1, low_sums(2 * at + 1));
    acc = S::fma(first, S::mul(w.scale[0], d), acc);
    acc = S::fma(second, S::mul(w.scale[1], d), acc);
  }
  if constexpr (F::kHasMin) acc = S::fma(w.offset, S::row_set1(a.scaled_sums[at]), acc);
  return acc;
}

// Whether an instruction set takes two strips at once.
template <class S>
inline constexpr bool kTakesTwoStrips = S::kTwoStripsFrom > 0;

// The panels that kStrips strips are of, and where in them strip i is.
template <class S, size_t kStrips>
inline constexpr size_t kPanelsOf =
    (kStrips * S::kRows + quant::kPanelRows - 1) / quant::kPanelRows;
template <class S>
constexpr size_t panel_of(size_t strip) {
  return strip * S::kRows / quant::kPanelRows;
}
template <class S>
constexpr size_t row_of(size_t strip) {
  return strip * S::kRows % quant::kPanelRows;
}

// acc[t][s] + the product of part kPart of block w[s], the columns of one scale, with block `at` of
// the inputs' token t, whose blocks lie `step` apart. As add_block, but each group of inputs is
// loaded once for all strips. The dots of several tokens are taken in turn; one token by itself has
// two that do not wait for each other: of the two planes, or, where the set splits dots, of halves
// of the columns.
template <class S, class F, bool kFine, size_t kPart, size_t kTokens, size_t kStrips>
[[gnu::always_inline]] inline void add_part(const WeightBlock<S, F> (&w)[kStrips],
                                            const Activations& a, size_t at, size_t step,
                                            typename S::Row (*acc)[kStrips]) {
  constexpr size_t kParts = F::kScalesPerBlock, kGroups = quant::kGroups / kParts;
  constexpr bool kHalves = kTokens == 1 && !kFine && kSplitsDots<S>;
  constexpr size_t kApart = kHalves ? kGroups / 2 : 0, kFirst = kPart * kGroups;
  const int32_t* sums = kParts == 1 ? a.minus_sums : a.minus_half_sums;
  const int32_t* low_sums = kParts == 1 ? a.low_minus_sums : a.low_minus_half_sums;
  typename S::Dot dot[kTokens][kStrips], other[kTokens][kStrips];
  for (size_t t = 0; t < kTokens; ++t) {
    const size_t i = (at + t * step) * kParts + kPart;
    for (size_t s = 0; s < kStrips; ++s) {
      dot[t][s] = start_dot<S, F>(sums + i);
      if constexpr (kFine)
        other[t][s] = start_dot<S, F>(low_sums + i);
      else if constexpr (kHalves)
        other[t][s] = S::dot_start();
    }
  }
#pragma GCC unroll 8
  for (size_t g = kFirst; g < kFirst + kGroups - kApart; ++g) {
    typename S::Bytes codes[kStrips];
    for (size_t s = 0; s < kStrips; ++s) codes[s] = S::keep(w[s].codes.group[g]);
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const size_t column = (at + t * step) * quant::kBlockColumns;
      const auto inputs = S::load_inputs(a.codes + column);
      const auto others = kFine ? S::load_inputs(a.low_codes + column) : inputs;
      const auto group = S::load_group(inputs, g), second = S::load_group(others, g + kApart);
      for (size_t s = 0; s < kStrips; ++s) {
        const auto& far = kHalves ? w[s].codes.group[g + kApart] : codes[s];
        S::template dot_add_group<F::kCodeBits, F::kSigned>(dot[t][s], codes[s], group, g);
        if constexpr (kFine || kHalves)
          S::template dot_add_group<F::kCodeBits, F::kSigned>(other[t][s], far, second, g);
      }
    }
  }
  for (size_t t = 0; t < kTokens; ++t) {
    const auto d = S::row_set1(a.scales[at + t * step]);
    for (size_t s = 0; s < kStrips; ++s) {
      auto sum = dot[t][s];
      if constexpr (kFine) sum = S::dot_planes(sum, other[t][s]);
      if constexpr (kHalves) sum = S::add_dots(sum, other[t][s]);
      acc[t][s] = S::fma(S::dot_to_row(sum), S::mul(w[s].scale[kPart], d), acc[t][s]);
    }
  }
}

// acc[t][s] + the product of block w[s] with block `at` of the inputs' token t.
template <class S, class F, bool kFine, size_t kTokens, size_t kStrips>
[[gnu::always_inline]] inline void add_blocks(const WeightBlock<S, F> (&w)[kStrips],
                                              const Activations& a, size_t at, size_t step,
                                              typename S::Row (*acc)[kStrips]) {
  if constexpr (kStrips == 1) {
    static_assert(kTokens == 1);
    acc[0][0] = add_block<S, F, kFine>(w[0], a, at, acc[0][0]);
  } else {
    add_part<S, F, kFine, 0, kTokens>(w, a, at, step, acc);
    if constexpr (F::kScalesPerBlock == 2) add_part<S, F, kFine, 1, kTokens>(w, a, at, step, acc);
    if constexpr (F::kHasMin) {
      for (size_t t = 0; t < kTokens; ++t) {
        const auto sum = S::row_set1(a.scaled_sums[at + t * step]);
        for (size_t s = 0; s < kStrips; ++s) acc[t][s] = S::fma(w[s].offset, sum, acc[t][s]);
      }
    }
  }
}

// The same of n tokens. With two strips, S::kTogether tokens are taken together, or half as many
// with two planes: so many dots that none waits for the one before it, and codes are loaded once
// for all of them.
template <class S, class F, bool kFine, size_t kStrips>
[[gnu::always_inline]] inline void add_tokens(const WeightBlock<S, F> (&w)[kStrips],
                                              const Activations& a, size_t at, size_t step,
                                              size_t n, typename S::Row (*acc)[kStrips]) {
  size_t t = 0;
  if constexpr (kStrips > 1) {
    constexpr size_t kTogether = S::kTogether / (kFine ? 2 : 1);
    if constexpr (kTogether > 1)
      for (; t + kTogether <= n; t += kTogether)
        add_blocks<S, F, kFine, kTogether>(w, a, at + t * step, step, acc + t);
  }
  for (; t < n; ++t) add_blocks<S, F, kFine, 1>(w, a, at + t * step, step, acc + t);
}

// As add_blocks, where a set joins both planes of the inputs' codes: one dot takes them.
template <class S, class F, size_t kTokens, size_t kStrips>
[[gnu::always_inline]] inline void add_joined(const WeightBlock<S, F> (&w)[kStrips],
                                              const typename S::Inputs* inputs, const float* scales,
                                              size_t step, typename S::Row (*acc)[kStrips]) {
  static_assert(kOffsetLog2<S, F> < 0 && F::kScalesPerBlock == 1 && !F::kHasMin);
  typename S::Dot dot[kTokens][kStrips];
  for (auto& dots : dot)
    for (auto& sum : dots) sum = S::dot_start();
#pragma GCC unroll 8
  for (size_t g = 0; g < quant::kGroups; ++g) {
    typename S::Bytes codes[kStrips];
    for (size_t s = 0; s < kStrips; ++s) codes[s] = S::keep(w[s].codes.group[g]);
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const auto group = S::load_group(inputs[t], g);
      for (size_t s = 0; s < kStrips; ++s) S::dot_add_group(dot[t][s], codes[s], group);
    }
  }
  for (size_t t = 0; t < kTokens; ++t) {
    const auto d = S::row_set1(scales[t * step]);
    for (size_t s = 0; s < kStrips; ++s)
      acc[t][s] = S::fma(S::dot_to_row(dot[t][s]), S::mul(w[s].scale[0], d), acc[t][s]);
  }
}

// As add_tokens, for such a set.
template <class S, class F, size_t kStrips>
[[gnu::always_inline]] inline void add_joined_tokens(const WeightBlock<S, F> (&w)[kStrips],
                                                     const Activations& a, size_t at, size_t step,
                                                     size_t n, typename S::Row (*acc)[kStrips]) {
  typename S::Inputs inputs[S::kMaxTile];
  for (size_t t = 0; t < n; ++t) {
    const size_t column = (at + t * step) * quant::kBlockColumns;
    S::join_inputs(a.codes + column, a.low_codes + column, inputs[t]);
  }
  const float* scales = a.scales + at;
  size_t t = 0;
  for (; t + S::kTogether <= n; t += S::kTogether)
    add_joined<S, F, S::kTogether>(w, inputs + t, scales + t * step, step, acc + t);
  for (; t < n; ++t) add_joined<S, F, 1>(w, inputs + t, scales + t * step, step, acc + t);
}

// fn(blocks, i) for block i of kStrips strips from `row` on, in the order of K.
template <class S, class F, Fetch kFetch, size_t kStrips, class Fn>
[[gnu::always_inline]] inline void for_each_block(const std::byte* panel, size_t panel_bytes,
                                                  size_t row, size_t n_blocks, const Fn& fn) {
  constexpr size_t kStride = quant::kChunkStride<F>;
  Prefetcher<S, kFetch, kPanelsOf<S, kStrips>> ahead(panel, panel_bytes);
  for (size_t first = 0; first < n_blocks; first += quant::kChunkUnits, panel += kStride) {
    const size_t left = n_blocks - first;
    const size_t n = left < quant::kChunkUnits ? left : quant::kChunkUnits;
    for (size_t b = 0; b < n; ++b) {
      ahead.advance(kStride / quant::kChunkUnits);
      WeightBlock<S, F> blocks[kStrips];
      for (size_t s = 0; s < kStrips; ++s)
        blocks[s].unpack(panel + panel_of<S>(s) * panel_bytes, n, b, row + row_of<S>(s));
      fn(blocks, first + b);
    }
  }
}

// Tiles of up to so many tokens have a constant size, so that their accumulators stay in registers;
// but not the largest tile of an instruction set, which also takes what is left.
inline constexpr size_t kSmallTile = 4;
template <class S, size_t kTile>
[[gnu::always_inline]] constexpr size_t tile_size(size_t n_tokens) {
  return kTile <= kSmallTile && kTile < S::kMaxTile ? kTile : n_tokens;
}

// How many tokens a large tile may have: the only one, which reads its weights from memory, and
// those of more tokens, which find theirs in the caches. Codes that lie in two pieces take longer
// to unpack: more tokens share that where an instruction set says so.
template <class S, class F>
struct TileTokens {
  static constexpr size_t kMost = S::kMaxTile, kOfMany = S::kTileOfMany;
};
template <class S, class F>
requires(F::kCodeBits % 4 != 0 && requires { S::kTileOfPieces; }) struct TileTokens<S, F> {
  static constexpr size_t kMost = S::kTileOfPieces, kOfMany = kMost;
};

// fn.operator()<kTile, kFetch>(token, n) for all tokens, in tiles of nearly equal size, multiples
// of S::kTogether but for the last: n is kTile in a small one, at most kTile in others. Two planes
// of inputs, which few products have, know no small tiles but that of one token.
template <class S, class F, bool kFine, class Fn>
[[gnu::always_inline]] inline void in_tiles(size_t n_tokens, const Fn& fn) {
  constexpr size_t kMost = TileTokens<S, F>::kMost, kOfMany = TileTokens<S, F>::kOfMany;
  static_assert(kOfMany <= kMost && kOfMany % S::kTogether == 0);
  constexpr Fetch kFetchOfOne = S::kFetchesNear ? Fetch::kFirstLevel : Fetch::kSecondLevel;
  if (n_tokens == 1) return fn.template operator()<1, kFetchOfOne>(0, 1);
  if constexpr (!kFine && S::kMaxTile > kSmallTile) {
    if (n_tokens == 2) return fn.template operator()<2, Fetch::kSecondLevel>(0, 2);
    if (n_tokens == 3) return fn.template operator()<3, Fetch::kSecondLevel>(0, 3);
    if (n_tokens == 4) return fn.template operator()<4, Fetch::kSecondLevel>(0, 4);
  }
  size_t n_tiles = n_tokens <= kMost ? 1 : (n_tokens + kOfMany - 1) / kOfMany;
  for (size_t token = 0; n_tiles > 0; --n_tiles) {
    const size_t share = (n_tokens - token + n_tiles - 1) / n_tiles;
    const size_t whole = (share + S::kTogether - 1) / S::kTogether * S::kTogether;
    const size_t n = n_tiles == 1 ? share : whole;
    if (token == 0)
      fn.template operator()<kMost, Fetch::kSecondLevel>(token, n);
    else
      fn.template operator()<kMost, Fetch::kNone>(token, n);
    token += n;
  }
}

// Whether a set joins both planes of fine inputs.
template <class S>
inline constexpr bool kJoinsPlanes = requires {
  S::join_inputs;
};

// Whether two strips at once are faster. Where a code's sign moves to the input they have less in
// common: they are in small tiles alone, which wait for memory.
template <class S, class F>
constexpr bool two_strips_are_faster(size_t n_tokens) {
  constexpr bool kMovesSigns = F::kSigned && !S::kUnsignedDot && !kJoinsPlanes<S>;
  return n_tokens >= S::kTwoStripsFrom && (!kMovesSigns || n_tokens <= kSmallTile);
}

// fn.operator()<kStrips>(panel) for all panels, with kTwo two strips at a time where that is
// faster. One strip at a time is not compiled where it would never be taken.
template <class S, class F, bool kTwo, class Fn>
[[gnu::always_inline]] inline void for_each_panel(size_t first, size_t n_panels, size_t n_tokens,
                                                  const Fn& fn) {
  size_t panel = first;
  const size_t end = first + n_panels;
  if constexpr (kTwo) {
    constexpr size_t kStep = kPanelsOf<S, 2>;
    if (two_strips_are_faster<S, F>(n_tokens))
      for (; panel + kStep <= end; panel += kStep) fn.template operator()<2>(panel);
  }
  constexpr bool kAlways = kTwo && kPanelsOf<S, 2> == 1 && two_strips_are_faster<S, F>(1) &&
                           two_strips_are_faster<S, F>(kSmallTile + 1);
  if constexpr (!kAlways)
    for (; panel < end; ++panel) fn.template operator()<1>(panel);
}

// The panels from `panel` on whose strips are taken together, times tokens [token, token +
// n_tokens).
template <class S, class F, bool kFine, size_t kStrips, size_t kTile, Fetch kFetch>
void panel_tile(const PackedMatrix& w, size_t panel, const Activations& a, size_t token,
                size_t n_tokens, float* out, size_t out_stride) {
  const size_t n_blocks = a.n_columns / quant::kBlockColumns;
  const size_t n = tile_size<S, kTile>(n_tokens);
  for (size_t row = 0; row < quant::kPanelRows; row += kStrips * S::kRows) {
    const size_t first = panel * quant::kPanelRows + row;
    if (first >= w.n_rows) return;
    typename S::Row acc[kTile][kStrips];
    for (size_t t = 0; t < n; ++t)
      for (auto& rows : acc[t]) rows = S::row_set1(0.0f);
    for_each_block<S, F, kFetch, kStrips>(
        w.panels + panel * w.panel_bytes, w.panel_bytes, row,
        n_blocks, [&](const auto& blocks, size_t i) __attribute__((always_inline)) {
          const size_t at = token * n_blocks + i;
          if constexpr (kJoinsPlanes<S>)
            add_joined_tokens<S, F>(blocks, a, at, n_blocks, n, acc);
          else
            add_tokens<S, F, kFine>(blocks, a, at, n_blocks, n, acc);
        });
    for (size_t s = 0; s < kStrips; ++s) {
      const size_t from = first + s * S::kRows;
      if (from >= w.n_rows) return;
      for (size_t t = 0; t < n; ++t)
        store_rows<S>(out + (token + t) * out_stride + from, acc[t][s], w.n_rows - from);
    }
  }
}

template <class S, class F, bool kFine, bool kTwo>
void multiply_panels(const PackedMatrix& w, size_t first_panel, size_t n_panels,
                     const Activations& a, size_t n_tokens, float* out, size_t out_stride) {
  constexpr bool kBoth = kTwo && kTakesTwoStrips<S>;
  for_each_panel<S, F, kBoth>(first_panel, n_panels, n_tokens, [&]<size_t kStrips>(size_t panel) {
    in_tiles<S, F, kFine>(n_tokens, [&]<size_t kTile, Fetch kFetch>(size_t token, size_t n) {
      panel_tile<S, F, kFine, kStrips, kTile, kFetch>(w, panel, a, token, n, out, out_stride);
    });
  });
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

template <class S, bool kTwo = kTakesTwoStrips<S>>
void matmul(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
            size_t n_tokens, float* out, size_t out_stride) {
  quant::Formats::visit(w.type, [&]<class F>() {
    if constexpr (!F::kInteger)
      for (size_t p = first_panel; p < first_panel + n_panels; ++p)
        float_tokens<S, F, S::kFloatTile>(w, p, a, 0, n_tokens, out, out_stride);
    else if (a.low_codes == nullptr)
      multiply_panels<S, F, false, kTwo>(w, first_panel, n_panels, a, n_tokens, out, out_stride);
    else
      multiply_panels<typename FineSet<S, F>::Type, F, true, kTwo>(w, first_panel, n_panels, a,
                                                                   n_tokens, out, out_stride);
  });
}

}  // namespace smallmind::kernel
