// Products of integer weights in tile registers (AMX): the dots of 16 tokens with 16 rows are one
// instruction, and exact as any others. What follows a dot - its scale, an offset, the order of K -
// is that of matmul.h, and so are the bits.
//
// Two panels (one, for a single tile of tokens whose weights need unpacking) are unpacked piece by
// piece into signed codes, and a tile passes over one and then, from the first-level cache, over
// the other. Tile registers can only be stored: dots take the way over that cache, too. Three of
// them are under way at any time, one being scaled, one waiting to be stored and one being taken,
// and their instructions are spread between those of the vector units, which would otherwise wait
// for them in a crowd.
#pragma once

#include "kernels/coarse.h"
#include "kernels/matmul.h"

namespace smallmind::kernel {

// Panels that pass over a tile's inputs while these are in the first-level cache.
inline constexpr size_t kPassPanels = 2;
// Blocks of each that are unpacked at once: they leave room there.
inline constexpr size_t kUnpackedBlocks = 3 * quant::kChunkUnits;
// Tiles of tokens that pass over them before the next blocks are unpacked.
inline constexpr size_t kPassTiles = 8;
// Fewer tokens, or fewer beside whole tiles, are faster without tile registers.
inline constexpr size_t kLeastTileTokens = 10;

inline constexpr size_t kBlockBytes = quant::kGroups * quant::kGroupBytes;
// The columns of a dot: those that share a scale.
template <class F>
inline constexpr size_t kDotColumns = quant::kBlockColumns / F::kScalesPerBlock;
// How far apart chunks of a panel are, for each of their blocks.
template <class F>
inline constexpr size_t kBlockStride = quant::kChunkStride<F> / quant::kChunkUnits;

// Some blocks of a panel: their codes as signed bytes, and what is multiplied with their dots.
template <class F>
struct UnpackedBlocks {
  static constexpr bool kInPlace = F::kSigned;  // the panel itself holds the codes like this

  const std::byte* chunks;
  alignas(64) std::byte codes[kInPlace ? 1 : kUnpackedBlocks][kBlockBytes];
  alignas(64) float scales[kUnpackedBlocks][F::kScalesPerBlock][quant::kPanelRows];
  alignas(64) float offsets[F::kHasMin ? kUnpackedBlocks : 1][quant::kPanelRows];

  [[gnu::always_inline]] const std::byte* codes_of(size_t block) const {
    if constexpr (kInPlace)
      return chunks + block / quant::kChunkUnits * quant::kChunkStride<F> +
             block % quant::kChunkUnits * kBlockBytes;
    else
      return codes[block];
  }

  // One of n_blocks that follow each other.
  template <class S>
  void unpack(size_t block, size_t n_blocks) {
    const size_t first = block / quant::kChunkUnits * quant::kChunkUnits, b = block - first;
    const size_t left = n_blocks - first;
    const size_t n = left < quant::kChunkUnits ? left : quant::kChunkUnits;
    const std::byte* chunk = chunks + first * kBlockStride<F>;
    if constexpr (!kInPlace) {
      quant::Codes<S> unpacked;
      F::template codes<S>(chunk, n, b, 0, unpacked);
      for (size_t g = 0; g < quant::kGroups; ++g)
        S::template store_signed<F::kZeroPointLog2>(codes[block] + g * quant::kGroupBytes,
                                                    unpacked.group[g]);
    }
    for (int i = 0; i < F::kScalesPerBlock; ++i)
      S::store_row(scales[block][i], F::template scale<S>(chunk, n, b, i, 0));
    if constexpr (F::kHasMin) S::store_row(offsets[block], F::template offset<S>(chunk, n, b, 0));
  }
};

// Products of panels. is_fine(block): whether both planes of the inputs enter. Out has
// fetch(token), some time before a token's rows are ready, and take(token, rows).
template <class S, class F, class IsFine, class Out>
class TileProducts {
  using Row = typename S::Row;
  static constexpr size_t kTokens = S::kTileTokens;
  static constexpr size_t kDotsOfBlock = F::kScalesPerBlock;
  static_assert(!F::kHasMin || kDotsOfBlock == 1, "an offset is added with every dot");
  static_assert(F::kSigned ? F::kCodeBits == 8 : F::kCodeBits < 8, "codes become signed bytes");

 public:
  TileProducts(const Activations& a, const IsFine& is_fine, size_t panel_bytes)
      : a_(a),
        is_fine_(is_fine),
        n_all_(a.n_columns / quant::kBlockColumns),
        panel_bytes_(panel_bytes) {}

  // Of n_panels (at most kPassPanels) with tokens [0, n_tokens): whole tiles, of which the last one
  // may begin within the one before it, or a part of a tile. outs: of each panel. REQUIRES:
  // S::configure()d for a tile of min(n_tokens, 16).
  void multiply(const std::byte* panels, size_t n_panels, size_t n_tokens, const Out* outs) {
    panels_ = panels;
    n_panels_ = n_panels;
    outs_ = outs;
    n_tokens_ = n_tokens;
    const size_t n_tiles = (n_tokens + kTokens - 1) / kTokens;
    for (size_t tile = 0; tile < n_tiles; tile += kPassTiles) {
      const size_t left = n_tiles - tile, n = left < kPassTiles ? left : kPassTiles;
      for (first_ = 0; first_ < n_all_; first_ += kUnpackedBlocks) {
        n_blocks_ = n_all_ - first_ < kUnpackedBlocks ? n_all_ - first_ : kUnpackedBlocks;
        n_dots_ = n_blocks_ * kDotsOfBlock;
        if (n_tokens >= kTokens)
          pass<true>(tile, n);
        else
          pass<false>(tile, n);
      }
    }
  }

 private:
  // One step of a pass.
  struct Place {
    size_t tile;
    size_t panel;
  };
  // Where a tile of tokens has its inputs for the unpacked blocks. (Plain values, which the
  // compiler keeps in registers: instructions of the tile registers may change all memory, for all
  // it knows.)
  struct Inputs {
    const int8_t* codes;
    const int8_t* low_codes;
    const float* scales;
    const float* scaled_sums;
  };
  size_t token_of(size_t tile) const {
    const size_t token = tile * kTokens;
    return n_tokens_ < kTokens || token + kTokens <= n_tokens_ ? token : n_tokens_ - kTokens;
  }
  Inputs inputs_of(size_t tile) const {
    const size_t code = token_of(tile) * a_.n_columns + first_ * quant::kBlockColumns;
    const size_t block = code / quant::kBlockColumns;
    return {a_.codes + code, a_.low_codes == nullptr ? nullptr : a_.low_codes + code,
            a_.scales + block, a_.scaled_sums + block};
  }

  // Takes tiles over the blocks from first_ on.
  template <bool kWhole>
  void pass(size_t tile, size_t n_tiles) {
    first_tile_ = tile;
    for (size_t p = 0; p < n_panels_; ++p)
      w_[p].chunks = panels_ + p * panel_bytes_ + first_ * kBlockStride<F>;
    const size_t n_early = n_blocks_ < 2 ? n_blocks_ : 2;
    for (size_t i = 0; i < n_early; ++i) w_[0].template unpack<S>(i, n_blocks_);
    begin({tile, 0});
    for (size_t p = 0; p < n_panels_; ++p)
      for (size_t i = p == 0 ? n_early : 0; i < n_blocks_; ++i)
        w_[p].template unpack<S>(i, n_blocks_);
    const bool chains = n_dots_ % 2 == 0;
    for (const size_t end = tile + n_tiles; tile < end; ++tile) {
      for (size_t p = 0; p < n_panels_; ++p) {
        const Place at{tile, p}, next = p + 1 < n_panels_ ? Place{tile, p + 1} : Place{tile + 1, 0};
        const bool goes_on = next.tile < end;
        multiply_tile<kWhole>(at, next, goes_on && chains);
        if (goes_on && !chains) begin(next);
      }
    }
  }

  // The steps of dot i of a tile's. Dots take turns between two sets of registers, and between
  // two places where they are stored.
  [[gnu::always_inline]] void load(const UnpackedBlocks<F>& w, const Inputs& inputs, size_t i,
                                   size_t n_columns) const {
    S::load_weights(w.codes_of(i / kDotsOfBlock) +
                    i % kDotsOfBlock * (kDotColumns<F> * quant::kPanelRows));
    S::load_tokens(inputs.codes + i * kDotColumns<F>, n_columns);
  }
  template <int kTurn>
  [[gnu::always_inline]] void take(const Inputs& inputs, size_t i, size_t n_columns) const {
    S::template take_dots<kTurn, 0>();
    if (!is_fine_(first_ + i / kDotsOfBlock)) return;
    S::load_tokens(inputs.low_codes + i * kDotColumns<F>, n_columns);
    S::template take_dots<kTurn, 1>();
  }
  template <int kTurn>
  [[gnu::always_inline]] void store(size_t i) {
    S::template store_dots<kTurn, 0>(dots_[kTurn].plane[0]);
    if (is_fine_(first_ + i / kDotsOfBlock))
      S::template store_dots<kTurn, 1>(dots_[kTurn].plane[1]);
  }

  // What comes before a tile: its first dot is stored, its second taken.
  void begin(const Place& at) {
    const Inputs inputs = inputs_of(at.tile);
    load(w_[at.panel], inputs, 0, a_.n_columns);
    take<0>(inputs, 0, a_.n_columns);
    store<0>(0);
    if (n_dots_ == 1) return;
    load(w_[at.panel], inputs, 1, a_.n_columns);
    take<1>(inputs, 1, a_.n_columns);
  }

  // A tile of tokens over all unpacked blocks of a panel; and what comes before the next one, if
  // that is to follow at once.
  template <bool kWhole>
  [[gnu::noinline]] void multiply_tile(const Place& at, const Place& after, bool goes_on) {
    const size_t n = kWhole ? kTokens : n_tokens_;
    const size_t token = token_of(at.tile), n_columns = a_.n_columns, n_dots = n_dots_;
    const Inputs inputs = inputs_of(at.tile), next = inputs_of((goes_on ? after : at).tile);
    const UnpackedBlocks<F>&w = w_[at.panel], &w_after = w_[after.panel];
    const Out& out = outs_[at.panel];
    float(*carried)[quant::kPanelRows] = carried_[at.panel][at.tile - first_tile_];
    Row acc[kTokens];
#pragma GCC unroll 16
    for (size_t t = 0; t < n; ++t) acc[t] = first_ == 0 ? S::row_set1(0.0f) : S::load(carried[t]);
    const std::byte* ahead = w.chunks + kPassPanels * panel_bytes_;
    const bool fetches = at.tile == 0;
    // Two dots ahead of dot i one is taken, one ahead one is stored. Most steps know without a
    // branch that these are there, and of this tile.
    const auto step = [&]<int kTurn, bool kInside>(size_t i) __attribute__((always_inline)) {
      const bool is_here = kInside || i + 2 < n_dots, comes = is_here || goes_on;
      const size_t coming = is_here ? i + 2 : i + 2 - n_dots;
      const Inputs& from = is_here ? inputs : next;
      if (comes) load(is_here ? w : w_after, from, coming, n_columns);
      if (fetches) {
        for (size_t line = 0; line < kBlockStride<F> / kDotsOfBlock; line += 64)
          __builtin_prefetch(ahead + line, 0, 2);
        ahead += kBlockStride<F> / kDotsOfBlock;
      }
      scale<kWhole, kTurn>(w, inputs, i, 0, n / 2, acc);
      if (comes) take<kTurn>(from, coming, n_columns);
      if (kInside || i + 1 < n_dots || goes_on)
        store<1 - kTurn>(kInside || i + 1 < n_dots ? i + 1 : 0);
      if constexpr (!kInside)
        for (size_t t = kTurn == 0 ? 0 : n / 2; t < (kTurn == 0 ? n / 2 : n); ++t)
          out.fetch(token + t);
      scale<kWhole, kTurn>(w, inputs, i, n / 2, n, acc);
    };
    size_t i = 0;
    for (; i + 4 <= n_dots; i += 2) {
      step.template operator()<0, true>(i);
      step.template operator()<1, true>(i + 1);
    }
    for (; i < n_dots; i += 2) {
      step.template operator()<0, false>(i);
      if (i + 1 < n_dots) step.template operator()<1, false>(i + 1);
    }
    const bool is_done = first_ + n_blocks_ == n_all_;
#pragma GCC unroll 16
    for (size_t t = 0; t < n; ++t) {
      if (is_done)
        out.take(token + t, acc[t]);
      else
        S::store(carried[t], acc[t]);
    }
  }

  // acc += dot i of tokens [from, to) of the tile, scaled.
  template <bool kWhole, int kTurn>
  [[gnu::always_inline]] void scale(const UnpackedBlocks<F>& w, const Inputs& inputs, size_t i,
                                    size_t from, size_t to, Row* acc) const {
    const size_t block = i / kDotsOfBlock, stride = n_all_;
    const Row scale = S::load(w.scales[block][i % kDotsOfBlock]);
    const bool is_fine = is_fine_(first_ + block);
    const auto& plane = dots_[kTurn].plane;
    size_t at = from * stride + block;
#pragma GCC unroll 16
    for (size_t t = from; t < to; ++t) {
      const auto dot = S::load_dots(plane[0][t]);
      const Row c = is_fine ? S::dot_to_row(S::dot_planes(dot, S::load_dots(plane[1][t])))
                            : S::small_dot_to_row(dot);
      acc[t] = S::fma(c, S::mul(scale, S::row_set1(inputs.scales[at])), acc[t]);
      if constexpr (F::kHasMin)
        acc[t] = S::fma(S::load(w.offsets[block]), S::row_set1(inputs.scaled_sums[at]), acc[t]);
      at += stride;
      asm("" : "+r"(at));  // one that steps: the places of 16 tokens would not fit into registers
    }
  }

  const Activations& a_;
  const IsFine& is_fine_;
  const size_t n_all_;  // blocks
  const size_t panel_bytes_;
  const std::byte* panels_ = nullptr;
  size_t n_panels_ = 0;
  const Out* outs_ = nullptr;
  size_t n_tokens_ = 0;

  size_t first_ = 0;       // block, of those that are unpacked
  size_t n_blocks_ = 0;    // that are unpacked
  size_t n_dots_ = 0;      // of these with a tile
  size_t first_tile_ = 0;  // of the pass
  struct {
    alignas(64) int32_t plane[2][kTokens][quant::kPanelRows];
  } dots_[2];
  // Sums between two passes.
  alignas(64) float carried_[kPassPanels][kPassTiles][kTokens][quant::kPanelRows];
  UnpackedBlocks<F> w_[kPassPanels];
};

// Where a product's rows go.
template <class S>
struct RowsOut {
  const PackedMatrix& w;
  size_t panel;
  float* out;
  size_t out_stride;

  float* rows(size_t token) const { return out + token * out_stride + panel * quant::kPanelRows; }
  // (Always inline: see attention.h, fetch_lines.)
  [[gnu::always_inline]] void fetch(size_t token) const { __builtin_prefetch(rows(token), 1, 3); }
  void take(size_t token, typename S::Row x) const {
    store_rows<S>(rows(token), x, w.n_rows - panel * quant::kPanelRows);
  }
};

// The highest of a panel's rows.
template <class S>
struct HighestOut {
  const PackedMatrix& w;
  size_t panel;
  float* out;
  size_t out_stride;

  void fetch(size_t) const {}
  void take(size_t token, typename S::Row x) const {
    const size_t n = w.n_rows - panel * quant::kPanelRows;
    if (n < quant::kPanelRows) x = S::first_lanes(n, x, S::row_set1(-__builtin_inff()));
    out[token * out_stride + panel] = max_lanes<S>(x);
  }
};

// is_fine of all blocks. (S in the name: see quant/panel.h, group_offset.)
template <class S, bool kFine>
struct EveryBlock {
  bool operator()(size_t) const { return kFine; }
};

template <class S, class F, class Out, class IsFine>
void multiply_tiles(const PackedMatrix& w, size_t first_panel, size_t n_panels,
                    const Activations& a, const IsFine& is_fine, size_t n_tokens, float* out,
                    size_t out_stride) {
  S::configure(n_tokens < S::kTileTokens ? n_tokens : S::kTileTokens, kDotColumns<F>);
  TileProducts<S, F, IsFine, Out> products(a, is_fine, w.panel_bytes);
  // A single tile's inputs stay where they are anyway; codes of one panel leave them more room.
  const bool is_single = n_tokens <= S::kTileTokens && !UnpackedBlocks<F>::kInPlace;
  const size_t at_once = is_single ? 1 : kPassPanels;
  for (size_t done = 0; done < n_panels; done += at_once) {
    const size_t panel = first_panel + done;
    const Out outs[kPassPanels] = {{w, panel, out, out_stride}, {w, panel + 1, out, out_stride}};
    const size_t left = n_panels - done;
    products.multiply(w.panels + panel * w.panel_bytes, left < at_once ? left : at_once, n_tokens,
                      outs);
  }
  S::release();
}

// How many of the first tokens are for tiles.
template <class S>
[[gnu::always_inline]] inline size_t tokens_in_tiles(size_t n_tokens) {
  const size_t rest = n_tokens % S::kTileTokens;
  return rest < kLeastTileTokens ? n_tokens - rest : n_tokens;
}

// matmul(), with float weights and few tokens as in any set.
template <class S>
void matmul_amx(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
                size_t n_tokens, float* out, size_t out_stride) {
  size_t n = 0;
  quant::Formats::visit(w.type, [&]<class F>() {
    if constexpr (F::kInteger) {
      n = tokens_in_tiles<S>(n_tokens);
      if (n == 0) return;
      if (a.low_codes == nullptr)
        multiply_tiles<S, F, RowsOut<S>>(w, first_panel, n_panels, a, EveryBlock<S, false>(), n,
                                         out, out_stride);
      else
        multiply_tiles<S, F, RowsOut<S>>(w, first_panel, n_panels, a, EveryBlock<S, true>(), n, out,
                                         out_stride);
    }
  });
  if (n < n_tokens)
    matmul<S>(w, first_panel, n_panels, tokens_from(a, n), n_tokens - n, out + n * out_stride,
              out_stride);
}

// coarse_maxima() likewise.
template <class S>
void coarse_maxima_amx(const PackedMatrix& w, size_t first_panel, size_t n_panels,
                       const Activations& a, const bool* is_fine, size_t n_tokens, float* out,
                       size_t out_stride) {
  const size_t n = tokens_in_tiles<S>(n_tokens);
  if (n > 0)
    quant::Formats::visit(w.type, [&]<class F>() {
      if constexpr (F::kInteger)
        multiply_tiles<S, F, HighestOut<S>>(
            w, first_panel, n_panels, a, [&](size_t block) { return is_fine[block]; }, n, out,
            out_stride);
    });
  if (n < n_tokens)
    coarse_maxima<S>(w, first_panel, n_panels, tokens_from(a, n), is_fine, n_tokens - n,
                     out + n * out_stride, out_stride);
}

}  // namespace smallmind::kernel
