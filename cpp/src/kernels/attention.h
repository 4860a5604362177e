// Attention over paged keys and values (numerics.md, "Attention"). Keys are taken in pieces of 64
// that start at absolute multiples of 64; each (query, piece) yields its own maximum, sum and
// unnormalised output, folded from left to right. The sum over a pair of elements is fma(odd) then
// fma(even), which is what the bfloat16 dot instructions compute.
//
// A tile's queries are taken in blocks that share every load of a key or value; a piece stays in
// the near cache while the blocks of the tile pass over it.
#pragma once

#include "kernels/kernels.h"
#include "kernels/kv_pages.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

inline constexpr size_t kLanes = 16;
// A query's row in the packed tile: not a power of two, or the rows would share few cache sets.
inline constexpr size_t kQueryStride = kMaxHeadDim + 32;

// The part of a piece that one query sees, in keys from the piece's start; empty when first >=
// last.
struct KeyRange {
  size_t first;
  size_t last;
};

// One piece: the keys and values of its two pages in the bfloat16 layout; null where no query of
// the tile sees the page.
struct Piece {
  int64_t index;
  const std::byte* keys[2];
  const std::byte* values[2];
};

// A tile on its way through the pieces, on the stack. (S in the name: see quant/panel.h,
// group_offset.)
template <class S>
struct TileState {
  alignas(64) typename S::Element queries[kMaxTileQueries][kQueryStride];
  float best[kMaxTileQueries];   // running maximum
  float total[kMaxTileQueries];  // running sum of exp(score - best)
  bool started[kMaxTileQueries];
};

// What a piece gives to one query besides its output.
struct PieceSum {
  float best;
  float sum;
};

// Working memory of a block of queries on one piece.
template <class S, size_t kQueries>
struct BlockScratch {
  alignas(64) float scores[kQueries][kPieceKeys];
  alignas(64) typename S::Element weights[kQueries][kPieceKeys];  // unnormalised probabilities
  KeyRange range[kQueries];
  KeyRange common;  // pairs of keys that every query of the block sees; may be empty
  bool sees_piece;  // any query does
  PieceSum sums[kQueries];
  // How a query's output takes the piece in: out = piece * gain + out * keep; out = piece where the
  // piece is its first.
  alignas(64) float factors[2 * kLanes];  // keep from 0 on, gain from kLanes on
  bool is_first[kQueries];
  float* out[kQueries];
};

// Sets the ranges of the block that begins with query q0.
template <class S, size_t kQueries>
inline void find_ranges(const AttentionTile& tile, size_t q0, int64_t piece,
                        BlockScratch<S, kQueries>& s) {
  constexpr auto kKeys = static_cast<int64_t>(kPieceKeys);
  const int64_t start = piece * kKeys;
  s.common = {0, kPieceKeys};
  s.sees_piece = false;
  for (size_t q = 0; q < kQueries; ++q) {
    const int64_t from = tile.begin[q0 + q] > start ? tile.begin[q0 + q] - start : 0;
    const int64_t to = tile.end[q0 + q] - start < kKeys ? tile.end[q0 + q] - start : kKeys;
    KeyRange& r = s.range[q];
    r = from < to ? KeyRange{static_cast<size_t>(from), static_cast<size_t>(to)} : KeyRange{};
    s.sees_piece = s.sees_piece || from < to;
    s.common.first = r.first > s.common.first ? r.first : s.common.first;
    s.common.last = r.last < s.common.last ? r.last : s.common.last;
  }
  s.common = {(s.common.first + 1) & ~size_t{1}, s.common.last & ~size_t{1}};
  if (s.common.first >= s.common.last) s.common = {};
}

// scores[q][key] = q . key for the 32 keys of a page, scaled and capped.
template <class S, size_t kQueries>
inline void score_page(const AttentionTile& tile, const typename S::Element* queries,
                       const std::byte* keys, float* scores) {
  typename S::Vec low[kQueries], high[kQueries];  // keys 0-15 and 16-31
  for (size_t q = 0; q < kQueries; ++q) low[q] = high[q] = S::set1(0.0f);
  for (size_t pair = 0; pair < tile.head_dim / 2; ++pair) {
    const auto low_keys = S::load_pairs(keys + pair * kPageKeys * 4);
    const auto high_keys = S::load_pairs(keys + pair * kPageKeys * 4 + 64);
    for (size_t q = 0; q < kQueries; ++q) {
      const auto query = S::repeat_pair(queries + q * kQueryStride + 2 * pair);
      low[q] = S::dot_pairs(query, low_keys, low[q]);
      high[q] = S::dot_pairs(query, high_keys, high[q]);
    }
  }
  const auto finish = [&](typename S::Vec sum) {
    const auto score = S::mul(sum, S::set1(tile.scale));
    if (tile.softcap == 0) return score;
    const auto cap = S::set1(tile.softcap);
    return S::mul(cap, tanh<S>(S::div(score, cap)));
  };
  for (size_t q = 0; q < kQueries; ++q) {
    S::store(scores + q * kPieceKeys, finish(low[q]));
    S::store(scores + q * kPieceKeys + kLanes, finish(high[q]));
  }
}

// Lanes [first, last) of x, the others of y; bounds relative to the vector, clamped.
template <class S>
inline typename S::Vec lanes_between(int64_t first, int64_t last, typename S::Vec x,
                                     typename S::Vec y) {
  const auto clamp = [](int64_t n) { return static_cast<size_t>(n < 0 ? 0 : n > 16 ? 16 : n); };
  return S::first_lanes(clamp(last), S::first_lanes(clamp(first), y, x), y);
}

// Rounds to bfloat16, stores that and returns it.
template <class S>
inline typename S::Vec store_rounded(typename S::Element* p, typename S::Vec x) {
  if constexpr (requires { S::store_rounded(p, x); }) {
    return S::store_rounded(p, x);
  } else {
    const auto rounded = round_bf16<S>(x);
    S::store_elements(p, rounded);
    return rounded;
  }
}

// weights = exp(score - max), rounded to bfloat16; keys out of range become 0 where a vector of 16
// holds some in range.
template <class S>
inline PieceSum softmax_piece(const float* scores, KeyRange range, typename S::Element* weights) {
  const auto lowest = S::set1(-__builtin_inff());
  const auto first = static_cast<int64_t>(range.first), last = static_cast<int64_t>(range.last);
  const auto in_range = [&](int64_t at, typename S::Vec x) {  // else -inf, whose exponential is 0
    if (first <= at && at + 16 <= last) return x;
    return lanes_between<S>(first - at, last - at, x, lowest);
  };
  const int64_t begin = first & ~int64_t{15};
  auto best = lowest;
  for (int64_t at = begin; at < last; at += 16)
    best = S::max(in_range(at, S::load(scores + at)), best);
  const float maximum = max_lanes<S>(best);
  auto sum = S::set1(0.0f);
  for (int64_t at = begin; at < last; at += 16) {
    const auto x = S::sub(S::load(scores + at), S::set1(maximum));
    sum = S::add(sum, store_rounded<S>(weights + at, exp_for_bf16<S>(in_range(at, x))));
  }
  return {maximum, sum_lanes<S>(sum)};
}

// Takes the sums of the piece into the running ones and finds the factors of the outputs.
template <class S, size_t kQueries>
inline void fold_sums(const AttentionTile& tile, size_t q0, TileState<S>& state,
                      BlockScratch<S, kQueries>& s) {
  for (size_t q = 0; q < kQueries; ++q) {
    const float old = state.best[q0 + q], found = s.sums[q].best;
    const float best = found > old ? found : old;
    s.factors[q] = old - best;
    s.factors[kLanes + q] = found - best;
    s.out[q] = tile.out[q0 + q];
    s.is_first[q] = !state.started[q0 + q];
    if (s.range[q].first < s.range[q].last) state.best[q0 + q] = s.is_first[q] ? found : best;
  }
  S::store(s.factors, exp<S>(S::load(s.factors)));
  S::store(s.factors + kLanes, exp<S>(S::load(s.factors + kLanes)));
  for (size_t q = 0; q < kQueries; ++q) {
    if (s.range[q].first >= s.range[q].last) continue;
    float& total = state.total[q0 + q];
    total = s.is_first[q]
                ? s.sums[q].sum
                : __builtin_fmaf(s.sums[q].sum, s.factors[kLanes + q], total * s.factors[q]);
    state.started[q0 + q] = true;
  }
}

// acc += weights * values for the keys of `range` that are in [from, to), pair by pair. A key out
// of range is left out, not multiplied by 0: of a pair that is half in range, the other half's
// value is replaced.
template <class S, size_t kVecs>
inline void add_some_pairs(const AttentionTile& tile, const Piece& piece, size_t dim,
                           KeyRange range, const typename S::Element* weights,
                           typename S::Vec* acc) {
  for (size_t key = range.first & ~size_t{1}; key < range.last; key += 2) {
    const std::byte* values =
        piece.values[key / kPageKeys] + (key % kPageKeys / 2 * tile.head_dim + dim) * 4;
    const auto weight = S::repeat_pair(weights + key);
    for (size_t v = 0; v < kVecs; ++v) {
      auto pairs = S::load_pairs(values + v * 64);
      if (key < range.first) pairs = S::odd_only(pairs);
      if (key + 1 >= range.last) pairs = S::even_only(pairs);
      acc[v] = S::dot_pairs(weight, pairs, acc[v]);
    }
  }
}

// out[q][dim ...] takes in the sum over the piece's keys of weight * value, for kVecs * 16
// dimensions from `dim` on.
template <class S, size_t kQueries, size_t kVecs>
inline void take_values(const AttentionTile& tile, const Piece& piece, size_t dim,
                        const BlockScratch<S, kQueries>& s) {
  typename S::Vec acc[kQueries][kVecs];
  for (auto& row : acc)
    for (auto& a : row) a = S::set1(0.0f);
  const KeyRange common = s.common;
  for (size_t q = 0; q < kQueries; ++q) {
    const KeyRange r = s.range[q];
    const size_t last = common.first < common.last ? common.first : r.last;
    if (r.first < last)
      add_some_pairs<S, kVecs>(tile, piece, dim, {r.first, last}, s.weights[q], acc[q]);
  }
  for (size_t key = common.first; key < common.last; key += 2) {
    const std::byte* values =
        piece.values[key / kPageKeys] + (key % kPageKeys / 2 * tile.head_dim + dim) * 4;
    typename S::Pairs pairs[kVecs];
    for (size_t v = 0; v < kVecs; ++v) pairs[v] = S::load_pairs(values + v * 64);
    for (size_t q = 0; q < kQueries; ++q) {
      const auto weight = S::repeat_pair(s.weights[q] + key);
      for (size_t v = 0; v < kVecs; ++v) acc[q][v] = S::dot_pairs(weight, pairs[v], acc[q][v]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    const KeyRange r = s.range[q];
    if (common.first < common.last && common.last < r.last)
      add_some_pairs<S, kVecs>(tile, piece, dim, {common.last, r.last}, s.weights[q], acc[q]);
    if (r.first >= r.last) continue;
    const auto keep = S::set1(s.factors[q]), gain = S::set1(s.factors[kLanes + q]);
    for (size_t v = 0; v < kVecs; ++v) {
      float* out = s.out[q] + dim + v * kLanes;
      S::store(out,
               s.is_first[q] ? acc[q][v] : S::fma(acc[q][v], gain, S::mul(S::load(out), keep)));
    }
  }
}

template <class S, size_t kQueries>
inline void take_all_values(const AttentionTile& tile, const Piece& piece,
                            const BlockScratch<S, kQueries>& s) {
  constexpr size_t kVecs = kQueries * 4 <= 2 * S::kBlockQueries ? 4 : 2;  // of accumulators
  size_t dim = 0;
  for (; dim + kVecs * kLanes <= tile.head_dim; dim += kVecs * kLanes)
    take_values<S, kQueries, kVecs>(tile, piece, dim, s);
  for (; dim < tile.head_dim; dim += kLanes) take_values<S, kQueries, 1>(tile, piece, dim, s);
}

// Scores and weights of a block. False: none of its queries sees the piece.
template <class S, size_t kQueries>
inline bool weigh_block(const AttentionTile& tile, const Piece& piece, size_t q0,
                        const TileState<S>& state, BlockScratch<S, kQueries>& s) {
  find_ranges<S, kQueries>(tile, q0, piece.index, s);
  if (!s.sees_piece) return false;
  for (size_t page = 0; page < 2; ++page)
    if (piece.keys[page] != nullptr)
      score_page<S, kQueries>(tile, state.queries[q0], piece.keys[page],
                              s.scores[0] + page * kPageKeys);
  for (size_t q = 0; q < kQueries; ++q)
    s.sums[q] = s.range[q].first < s.range[q].last
                    ? softmax_piece<S>(s.scores[q], s.range[q], s.weights[q])
                    : PieceSum{};
  return true;
}

// Aims the outputs at the parts of this piece (kernels.h), without folding.
template <class S, size_t kQueries>
inline void aim_at_parts(const AttentionTile& tile, size_t q0, int64_t piece,
                         BlockScratch<S, kQueries>& s) {
  const auto at = static_cast<size_t>(piece - tile.first_piece) * part_floats(tile.head_dim);
  for (size_t q = 0; q < kQueries; ++q) {
    float* part = tile.out[q0 + q] + at;
    part[0] = s.sums[q].best;
    part[1] = s.sums[q].sum;
    s.out[q] = part + kLanes;
    s.is_first[q] = true;
    s.factors[q] = s.factors[kLanes + q] = 0;
  }
}

template <class S, size_t kQueries>
void attend_block(const AttentionTile& tile, const Piece& piece, size_t q0, TileState<S>& state) {
  BlockScratch<S, kQueries> s;
  find_ranges<S, kQueries>(tile, q0, piece.index, s);
  if (!s.sees_piece) return;
  for (size_t page = 0; page < 2; ++page)
    if (piece.keys[page] != nullptr)
      score_page<S, kQueries>(tile, state.queries[q0], piece.keys[page],
                              s.scores[0] + page * kPageKeys);
  for (size_t q = 0; q < kQueries; ++q) {
    const KeyRange r = s.range[q];
    s.sums[q] = r.first < r.last ? softmax_piece<S>(s.scores[q], r, s.weights[q]) : PieceSum{};
  }
  if (tile.in_parts)
    aim_at_parts<S, kQueries>(tile, q0, piece.index, s);
  else
    fold_sums<S, kQueries>(tile, q0, state, s);
  take_all_values<S, kQueries>(tile, piece, s);
}

template <class S>
void attend_piece(const AttentionTile& tile, const Piece& piece, TileState<S>& state) {
  size_t q = 0;
  const size_t n = tile.n_queries;
  if constexpr (S::kBlockQueries >= 8)
    for (; q + 8 <= n; q += 8) attend_block<S, 8>(tile, piece, q, state);
  if constexpr (S::kBlockQueries >= 4) {
    if (q + 4 <= n) {
      attend_block<S, 4>(tile, piece, q, state);
      q += 4;
    }
    if (q + 3 == n) return attend_block<S, 3>(tile, piece, q, state);
  }
  for (; q + 2 <= n; q += 2) attend_block<S, 2>(tile, piece, q, state);
  if (q < n) attend_block<S, 1>(tile, piece, q, state);
}

template <class S>
inline void begin_tile(const AttentionTile& tile, TileState<S>& state) {
  for (size_t q = 0; q < tile.n_queries; ++q) {
    for (size_t i = 0; i < tile.head_dim; i += kLanes)
      S::store_elements(state.queries[q] + i, S::load(tile.queries[q] + i));
    state.best[q] = -__builtin_inff();
    state.total[q] = 0;
    state.started[q] = false;
  }
}

template <class S>
inline void end_tile(const AttentionTile& tile, const TileState<S>& state) {
  for (size_t q = 0; q < tile.n_queries; ++q) {
    const auto total = S::set1(state.total[q]);
    for (size_t i = 0; i < tile.head_dim; i += kLanes)
      S::store(tile.out[q] + i, S::div(S::load(tile.out[q] + i), total));
  }
}

// Page by page the keys and values of a head lie far apart, and the processor's own prefetcher
// stops at every gap. With many queries on a piece their work hides the wait.
template <class S>
inline void prefetch_page(const AttentionTile& tile, const std::byte* page) {
  const size_t n = kv_region_bytes(tile.format, tile.head_dim);
  for (size_t at = 0; at < n; at += 64) {
    __builtin_prefetch(page + tile.k_offset + at, 0, 2);
    __builtin_prefetch(page + tile.v_offset + at, 0, 2);
  }
}

// open(piece, i, page) sets half i of the piece to the keys and values of a page.
template <class S, class Open>
inline void attend(const AttentionTile& tile, const Open& open) {
  TileState<S> state;
  begin_tile<S>(tile, state);
  int64_t begin = tile.begin[0], end = tile.end[0];
  for (size_t q = 1; q < tile.n_queries; ++q) {
    begin = tile.begin[q] < begin ? tile.begin[q] : begin;
    end = tile.end[q] > end ? tile.end[q] : end;
  }
  constexpr auto kKeys = static_cast<int64_t>(kPieceKeys), kPage = static_cast<int64_t>(kPageKeys);
  const int64_t first = tile.in_parts ? tile.first_piece : begin / kKeys;
  const int64_t last = tile.in_parts ? first + tile.n_pieces : (end + kKeys - 1) / kKeys;
  for (int64_t index = first; index < last; ++index) {
    Piece piece{index, {}, {}};
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t page = 2 * index + i;
      if (page * kPage < end && (page + 1) * kPage > begin)
        open(piece, static_cast<size_t>(i), tile.pages[page]);
      if (tile.n_queries <= S::kBlockQueries && index + 1 < last && (page + 2) * kPage < end)
        prefetch_page<S>(tile, tile.pages[page + 2]);
    }
    attend_piece<S>(tile, piece, state);
  }
  if (!tile.in_parts) end_tile<S>(tile, state);
}

// In a frame of its own: only q8_0 needs room for the restored values.
template <class S>
[[gnu::noinline]] void attend_q8(const AttentionTile& tile) {
  RestoredPiece restored;
  attend<S>(tile, [&](Piece& piece, size_t i, const std::byte* page) {
    restore_keys<S>(page + tile.k_offset, tile.head_dim, restored.keys[i]);
    restore_values<S>(page + tile.v_offset, tile.head_dim, restored.values[i]);
    piece.keys[i] = restored.keys[i];
    piece.values[i] = restored.values[i];
  });
}

template <class S>
void attention(const AttentionTile& tile) {
  if (tile.format == KvFormat::kQ8_0) return attend_q8<S>(tile);
  attend<S>(tile, [&](Piece& piece, size_t i, const std::byte* page) {
    piece.keys[i] = page + tile.k_offset;
    piece.values[i] = page + tile.v_offset;
  });
}

// The factors of up to 16 parts in a row.
struct PartFactors {
  alignas(64) float keep[kLanes];
  alignas(64) float gain[kLanes];
};

// The running maximum and sum of a query over the parts so far, and the factors of the next n.
template <class S>
inline PartFactors fold_part_sums(const float* parts, size_t stride, size_t n, PieceSum& running) {
  PartFactors f = {};
  for (size_t i = 0; i < n; ++i) {
    const float found = parts[i * stride];
    const float best = found > running.best ? found : running.best;
    f.keep[i] = running.best - best;
    f.gain[i] = found - best;
    running.best = best;
  }
  S::store(f.keep, exp<S>(S::load(f.keep)));
  S::store(f.gain, exp<S>(S::load(f.gain)));
  for (size_t i = 0; i < n; ++i)
    running.sum = __builtin_fmaf(parts[i * stride + 1], f.gain[i], running.sum * f.keep[i]);
  return f;
}

template <class S>
void fold_parts(const float* parts, size_t n, size_t head_dim, float* out) {
  const size_t stride = part_floats(head_dim);
  PieceSum running{parts[0], parts[1]};
  for (size_t i = 0; i < head_dim; i += kLanes) S::store(out + i, S::load(parts + kLanes + i));
  for (size_t first = 1; first < n; first += kLanes) {
    const size_t few = n - first < kLanes ? n - first : kLanes;
    const float* next = parts + first * stride;
    const PartFactors f = fold_part_sums<S>(next, stride, few, running);
    for (size_t i = 0; i < head_dim; i += kLanes) {
      auto sum = S::load(out + i);
      for (size_t p = 0; p < few; ++p)
        sum = S::fma(S::load(next + p * stride + kLanes + i), S::set1(f.gain[p]),
                     S::mul(sum, S::set1(f.keep[p])));
      S::store(out + i, sum);
    }
  }
  const auto total = S::set1(running.sum);
  for (size_t i = 0; i < head_dim; i += kLanes) S::store(out + i, S::div(S::load(out + i), total));
}

}  // namespace smallmind::kernel
