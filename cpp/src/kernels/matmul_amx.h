// Products of integer weights in tile registers (AMX): the dots of 16 tokens with 16 rows are one
// instruction, and exact as any others. What follows a dot - its scale, an offset, the order of K -
// is that of matmul.h, and so are the bits.
//
// A panel is unpacked piece by piece into signed codes, over which all tokens pass. Tile registers
// can only be stored: dots take the way over the first-level cache. Three dots are under way at any
// time, one being scaled, one being stored and one being taken, and their instructions are spread
// between those of the vector units, which would otherwise wait for them in a crowd.
#pragma once

#include "kernels/matmul.h"
#include "kernels/vector_math.h"

namespace smallmind {
extern const Kernels kKernelsAvx512;
}

namespace smallmind::kernel {

// Blocks of a panel unpacked at once: with the dots they leave room in the first-level cache.
inline constexpr size_t kUnpackedBlocks = 4 * quant::kChunkUnits;
// Tokens that pass over them before the next blocks are unpacked.
inline constexpr size_t kGroupTokens = 128;
// Fewer tokens are faster without tiles.
inline constexpr size_t kLeastTileTokens = 5;

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
  size_t n_blocks;
  alignas(64) std::byte codes[kInPlace ? 1 : kUnpackedBlocks][kBlockBytes];
  alignas(64) float scales[kUnpackedBlocks][F::kScalesPerBlock][quant::kPanelRows];
  alignas(64) float offsets[F::kHasMin ? kUnpackedBlocks : 1][quant::kPanelRows];

  const std::byte* codes_of(size_t block) const {
    if constexpr (kInPlace)
      return chunks + block / quant::kChunkUnits * quant::kChunkStride<F> +
             block % quant::kChunkUnits * kBlockBytes;
    else
      return codes[block];
  }

  template <class S>
  void unpack(size_t block) {
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

// The products of one panel. is_fine(block): whether both planes of the inputs enter. Out has
// fetch(token), before the rows of a token are ready, and take(token, rows).
template <class S, class F, class IsFine, class Out>
class TilePanel {
  using Row = typename S::Row;
  static constexpr size_t kTokens = S::kTileTokens;
  static constexpr size_t kDotsOfBlock = F::kScalesPerBlock;

 public:
  TilePanel(const std::byte* panel, const Activations& a, const IsFine& is_fine, const Out& out)
      : panel_(panel),
        a_(a),
        n_all_(a.n_columns / quant::kBlockColumns),
        is_fine_(is_fine),
        out_(out) {}

  void multiply(size_t n_tokens) {
    for (size_t token = 0; token < n_tokens; token += kGroupTokens) {
      const size_t left = n_tokens - token, n = left < kGroupTokens ? left : kGroupTokens;
      for (first_ = 0; first_ < n_all_; first_ += kUnpackedBlocks) pass(token, n);
    }
  }

 private:
  // Where a tile of tokens has its inputs for the unpacked blocks. (Plain values, which the compiler
  // keeps in registers: instructions of the tile registers may change all memory, for all it knows.)
  struct Inputs {
    const int8_t* codes;
    const int8_t* low_codes;
    const float* scales;
    ptrdiff_t to_sums;  // from scales
    size_t n_columns;
    size_t n_all;  // blocks
  };
  Inputs inputs_of(size_t token) const {
    const size_t code = token * a_.n_columns + first_ * quant::kBlockColumns;
    return {a_.codes + code,
            a_.low_codes + code,
            a_.scales + code / quant::kBlockColumns,
            a_.scaled_sums - a_.scales,
            a_.n_columns,
            n_all_};
  }

  // Takes a group of tokens over the blocks from first_ on.
  void pass(size_t token, size_t n_tokens) {
    w_.chunks = panel_ + first_ * kBlockStride<F>;
    w_.n_blocks = n_all_ - first_ < kUnpackedBlocks ? n_all_ - first_ : kUnpackedBlocks;
    group_ = token;
    n_dots_ = w_.n_blocks * kDotsOfBlock;
    const size_t rest = n_tokens % kTokens, whole_end = token + n_tokens - rest;
    const size_t n_early = w_.n_blocks < 2 ? w_.n_blocks : 2;
    for (size_t i = 0; i < n_early; ++i) w_.template unpack<S>(i);
    if (n_tokens >= kTokens)
      begin<true>(token);
    else
      begin<false>(token);
    for (size_t i = n_early; i < w_.n_blocks; ++i) w_.template unpack<S>(i);
    for (; token < whole_end; token += kTokens) {
      const bool is_last = token + kTokens == whole_end;
      tile<true>(token, kTokens, !is_last && n_dots_ % 2 == 0);
      if (!is_last && n_dots_ % 2 != 0) begin<true>(token + kTokens);
    }
    if (rest == 0) return;
    if (n_tokens >= kTokens) begin<false>(token);
    tile<false>(token, rest, false);
  }

  // The steps of dot i of a tile's. Dots take turns between two registers, and between two places
  // where they are stored.
  template <bool kWhole>
  [[gnu::always_inline]] void load(const int8_t* codes, size_t i) const {
    S::load_weights(w_.codes_of(i / kDotsOfBlock) +
                    i % kDotsOfBlock * (kDotColumns<F> * quant::kPanelRows));
    S::template load_tokens<kWhole>(codes + i * kDotColumns<F>, a_.n_columns);
  }
  template <bool kWhole, int kTurn>
  [[gnu::always_inline]] void take(const int8_t* low_codes, size_t i) const {
    if (is_fine_(first_ + i / kDotsOfBlock)) {
      S::template take_dots<kWhole, 0>();
      S::template load_tokens<kWhole>(low_codes + i * kDotColumns<F>, a_.n_columns);
      S::template take_dots<kWhole, 1>();
    } else {
      S::template take_dots<kWhole, kTurn>();
    }
  }
  template <bool kWhole, int kTurn>
  [[gnu::always_inline]] void store(size_t i) {
    if (is_fine_(first_ + i / kDotsOfBlock)) {
      S::template store_dots<kWhole, 0>(dots_[kTurn].plane[0]);
      S::template store_dots<kWhole, 1>(dots_[kTurn].plane[1]);
    } else {
      S::template store_dots<kWhole, kTurn>(dots_[kTurn].plane[0]);
    }
  }

  // What comes before a tile: its first dot is stored, its second taken.
  template <bool kWhole>
  void begin(size_t token) {
    const Inputs inputs = inputs_of(token);
    load<kWhole>(inputs.codes, 0);
    take<kWhole, 0>(inputs.low_codes, 0);
    store<kWhole, 0>(0);
    if (n_dots_ == 1) return;
    load<kWhole>(inputs.codes, 1);
    take<kWhole, 1>(inputs.low_codes, 1);
  }

  // One tile of tokens over all unpacked blocks; and what comes before the next one, if that is to
  // follow at once.
  template <bool kWhole>
  [[gnu::noinline]] void tile(size_t token, size_t n_tokens, bool goes_on) {
    const size_t n = kWhole ? kTokens : n_tokens;
    const Inputs inputs = inputs_of(token), next = inputs_of(goes_on ? token + kTokens : token);
    const size_t n_dots = n_dots_;
    Row acc[kTokens];
#pragma GCC unroll 16
    for (size_t t = 0; t < n; ++t)
      acc[t] = first_ == 0 ? S::row_set1(0.0f) : S::load(carried_[token - group_ + t]);
    const std::byte* ahead = w_.chunks + kUnpackedBlocks * kBlockStride<F>;
    const bool fetches = token == 0;
    const auto step = [&]<int kTurn>(size_t i) __attribute__((always_inline)) {
      const bool is_here = i + 2 < n_dots;
      const size_t coming = is_here ? i + 2 : i + 2 - n_dots;
      const size_t waiting = i + 1 < n_dots ? i + 1 : 0;
      const bool waits = i + 1 < n_dots || goes_on, comes = is_here || goes_on;
      // A dot of two planes takes both registers.
      const bool is_early = waits && (is_fine_(first_ + waiting / kDotsOfBlock) ||
                                      (comes && is_fine_(first_ + coming / kDotsOfBlock)));
      if (is_early) store<kWhole, 1 - kTurn>(waiting);
      if (comes) load<kWhole>(is_here ? inputs.codes : next.codes, coming);
      if (fetches) {
        for (size_t at = 0; at < kBlockStride<F> / kDotsOfBlock; at += 64)
          __builtin_prefetch(ahead + at, 0, 2);
        ahead += kBlockStride<F> / kDotsOfBlock;
      }
      scale<kWhole, kTurn>(inputs, i, 0, n / 2, acc);
      if (comes)
        take<kWhole, kTurn>(is_here ? inputs.low_codes : next.low_codes, coming);
      if (i < n) out_.fetch(token + i);
      scale<kWhole, kTurn>(inputs, i, n / 2, n, acc);
      if (waits && !is_early) store<kWhole, 1 - kTurn>(waiting);
    };
    for (size_t i = 0; i < n_dots; i += 2) {
      step.template operator()<0>(i);
      if (i + 1 < n_dots) step.template operator()<1>(i + 1);
    }
    const bool is_whole_row = first_ + w_.n_blocks == n_all_;
#pragma GCC unroll 16
    for (size_t t = 0; t < n; ++t) {
      if (is_whole_row)
        out_.take(token + t, acc[t]);
      else
        S::store(carried_[token - group_ + t], acc[t]);
    }
  }

  // acc += dot i of tokens [from, to) of the tile, scaled.
  template <bool kWhole, int kTurn>
  [[gnu::always_inline]] void scale(const Inputs& inputs, size_t i, size_t from, size_t to,
                                    Row* acc) const {
    const size_t block = i / kDotsOfBlock;
    const Row scale = S::load(w_.scales[block][i % kDotsOfBlock]);
    const bool is_fine = is_fine_(first_ + block);
    const auto& plane = dots_[kTurn].plane;
    const float* d = inputs.scales + from * inputs.n_all + block;
#pragma GCC unroll 16
    for (size_t t = from; t < to; ++t) {
      const auto dot = S::load_dots(plane[0][t]);
      const Row c = is_fine ? S::dot_to_row(S::dot_planes(dot, S::load_dots(plane[1][t])))
                            : S::small_dot_to_row(dot);
      acc[t] = S::fma(c, S::mul(scale, S::row_set1(*d)), acc[t]);
      if constexpr (F::kHasMin)
        acc[t] = S::fma(S::load(w_.offsets[block]), S::row_set1(d[inputs.to_sums]), acc[t]);
      d += inputs.n_all;
      asm("" : "+r"(d));  // one pointer that steps: 16 of them would not fit into registers
    }
  }

  const std::byte* panel_;
  const Activations& a_;
  size_t n_all_;
  const IsFine& is_fine_;
  const Out& out_;

  size_t first_ = 0;  // block, of those that are unpacked
  size_t group_ = 0;  // the first token of the group
  size_t n_dots_ = 0;  // of the unpacked blocks with a tile
  struct {
    alignas(64) int32_t plane[2][kTokens][quant::kPanelRows];
  } dots_[2];
  alignas(64) float carried_[kGroupTokens][quant::kPanelRows];  // sums between two passes
  UnpackedBlocks<F> w_;
};

// Where a product's rows go.
template <class S>
struct RowsOut {
  const PackedMatrix& w;
  size_t panel;
  float* out;
  size_t out_stride;

  float* rows(size_t token) const {
    return out + token * out_stride + panel * quant::kPanelRows;
  }
  void fetch(size_t token) const { __builtin_prefetch(rows(token), 1, 3); }
  void take(size_t token, typename S::Row x) const {
    store_rows<S>(rows(token), x, w.n_rows - panel * quant::kPanelRows);
  }
};

// make_out(panel) gives each panel's Out.
template <class S, class F, class IsFine, class MakeOut>
void multiply_tiles(const PackedMatrix& w, size_t first_panel, size_t n_panels,
                    const Activations& a, size_t n_tokens, const IsFine& is_fine,
                    const MakeOut& make_out) {
  S::configure(n_tokens % S::kTileTokens, kDotColumns<F>);
  for (size_t p = first_panel; p < first_panel + n_panels; ++p) {
    const auto out = make_out(p);
    TilePanel<S, F, IsFine, decltype(out)>(w.panels + p * w.panel_bytes, a, is_fine, out)
        .multiply(n_tokens);
  }
  S::release();
}

// matmul() where few tokens and float weights are another set's.
template <class S>
void matmul_amx(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
                size_t n_tokens, float* out, size_t out_stride) {
  if (n_tokens < kLeastTileTokens)
    return kKernelsAvx512.matmul(w, first_panel, n_panels, a, n_tokens, out, out_stride);
  quant::Formats::visit(w.type, [&]<class F>() {
    if constexpr (!F::kInteger) {
      kKernelsAvx512.matmul(w, first_panel, n_panels, a, n_tokens, out, out_stride);
    } else {
      const auto make_out = [&](size_t panel) { return RowsOut<S>{w, panel, out, out_stride}; };
      const auto all = [](size_t) { return true; };
      const auto none = [](size_t) { return false; };
      if (a.low_codes == nullptr)
        multiply_tiles<S, F>(w, first_panel, n_panels, a, n_tokens, none, make_out);
      else
        multiply_tiles<S, F>(w, first_panel, n_panels, a, n_tokens, all, make_out);
    }
  });
}

// The highest of a panel's rows.
template <class S>
struct HighestOut {
  size_t n_rows;  // of the panel
  float* out;
  size_t out_stride;

  void fetch(size_t) const {}
  void take(size_t token, typename S::Row x) const {
    const auto rows = n_rows < quant::kPanelRows ? S::first_lanes(n_rows, x, S::row_set1(-__builtin_inff())) : x;
    out[token * out_stride] = max_lanes<S>(rows);
  }
};

// coarse_maxima() likewise.
template <class S>
void coarse_maxima_amx(const PackedMatrix& w, size_t first_panel, size_t n_panels,
                       const Activations& a, const bool* is_fine, size_t n_tokens, float* out,
                       size_t out_stride) {
  if (n_tokens < kLeastTileTokens)
    return kKernelsAvx512.coarse_maxima(w, first_panel, n_panels, a, is_fine, n_tokens, out,
                                        out_stride);
  quant::Formats::visit(w.type, [&]<class F>() {
    if constexpr (F::kInteger) {
      const auto is_fine_block = [&](size_t block) { return is_fine[block]; };
      multiply_tiles<S, F>(w, first_panel, n_panels, a, n_tokens, is_fine_block, [&](size_t panel) {
        return HighestOut<S>{w.n_rows - panel * quant::kPanelRows, out + panel, out_stride};
      });
    }
  });
}

}  // namespace smallmind::kernel
