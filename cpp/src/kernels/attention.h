// Attention over paged keys and values (numerics.md, "Attention"). Keys are taken in pieces of 64
// that start at absolute multiples of 64; each (query, piece) yields its own maximum, sum and
// unnormalised output, folded from left to right. The sum over a pair of elements is fma(odd) then
// fma(even), which is what the bfloat16 dot instructions compute.
//
// A tile's queries are taken in blocks that share every load of a key or value; a piece stays in
// the near cache while the blocks of the tile pass over it.
#pragma once

#include <utility>

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
// the tile sees the page. And, as the cache holds them, what is fetched while keys and while values
// are read: see fetch_during.
struct Piece {
  int64_t index;
  const std::byte* keys[2];
  const std::byte* values[2];
  const std::byte* fetched_with_keys[2];
  const std::byte* fetched_with_values[2];
};

// A tile on its way through the pieces, on the stack. (S in the name: see quant/panel.h,
// group_offset.)
template <class S>
struct TileState {
  alignas(64) typename S::Element queries[kMaxTileQueries][kQueryStride];
  // Running maximum, and running sum of exp(score - best): 0 before the first piece, then at least
  // 1 (or NaN). A block reads kLanes of them, some beyond the last query.
  alignas(64) float best[kMaxTileQueries + kLanes];
  alignas(64) float total[kMaxTileQueries + kLanes];
};

// Working memory of a block of queries on one piece.
template <class S, size_t kQueries>
struct BlockScratch {
  alignas(64) float scores[kQueries][kPieceKeys];
  alignas(64) typename S::Element weights[kQueries][kPieceKeys];  // unnormalised probabilities
  KeyRange range[kQueries];
  KeyRange common;                 // pairs of keys that every query of the block sees; may be empty
  bool is_whole;                   // all queries see the whole piece
  bool is_alike;                   // all see the same of it, from the start of a pair on
  alignas(64) float best[kLanes];  // what the piece gives to each query besides its output; -inf
  alignas(64) float sum[kLanes];   // and 0 to one that does not see it
  // How a query's output takes the piece in: out = piece * gain + out * keep; out = piece where the
  // piece is its first.
  alignas(64) float keep[kLanes];
  alignas(64) float gain[kLanes];
  bool is_first[kQueries];
  float* out[kQueries];
};

// Sets the ranges of the block that begins with query q0. False: none of its queries sees the
// piece.
template <class S, size_t kQueries>
inline bool find_ranges(const AttentionTile& tile, size_t q0, int64_t piece,
                        BlockScratch<S, kQueries>& s) {
  constexpr auto kKeys = static_cast<int64_t>(kPieceKeys);
  const int64_t start = piece * kKeys;
  s.common = {0, kPieceKeys};
  bool is_seen = false;
  s.is_alike = true;
  for (size_t q = 0; q < kQueries; ++q) {
    const int64_t from = tile.begin[q0 + q] > start ? tile.begin[q0 + q] - start : 0;
    const int64_t to = tile.end[q0 + q] - start < kKeys ? tile.end[q0 + q] - start : kKeys;
    KeyRange& r = s.range[q];
    r = from < to ? KeyRange{static_cast<size_t>(from), static_cast<size_t>(to)} : KeyRange{};
    is_seen = is_seen || from < to;
    s.is_alike =
        s.is_alike && r.first % 2 == 0 && r.first == s.range[0].first && r.last == s.range[0].last;
    s.common.first = r.first > s.common.first ? r.first : s.common.first;
    s.common.last = r.last < s.common.last ? r.last : s.common.last;
  }
  s.is_whole = s.common.first == 0 && s.common.last == kPieceKeys;
  s.common = {(s.common.first + 1) & ~size_t{1}, s.common.last & ~size_t{1}};
  if (s.common.first >= s.common.last) s.common = {};
  return is_seen;
}

// Fetches lines of a page towards the second-level cache. At an even pace, and from both pages of a
// piece in turn: a burst would wait for the few misses that the first level keeps open, and the
// processor's own prefetcher follows both.
// (Always inline: a call that does nothing else g++ takes for one without an effect, and drops it.)
template <class S, size_t kLines>
[[gnu::always_inline]] inline void fetch_lines(const std::byte* at) {
  for (size_t i = 0; i < kLines; ++i) __builtin_prefetch(at + i * 64, 0, 2);
}

// How many vectors of sums each query of a block has in registers. (Where pairs are repeated, those
// of four vectors take four registers more than those of two.)
template <class S, size_t kQueries>
inline constexpr size_t kBlockVecs = S::kBlockSums >= 4 * kQueries + (S::kRepeatsPairs ? 4 : 0) ? 4
                                     : S::kBlockSums >= 2 * kQueries                            ? 2
                                                                                                : 1;

// sum[q][v] += a pair of query q, `stride` elements from one to the next, times the pairs load(v).
// S::kRepeatsPairs: there are registers for all vectors' pairs beside a repeated one, which is then
// made once for all of them; else each instruction that multiplies repeats it.
template <class S, size_t kQueries, size_t kVecs, class Load>
[[gnu::always_inline]] inline void add_pair(const typename S::Element* pair, size_t stride,
                                            const Load& load,
                                            typename S::Vec (&sum)[kQueries][kVecs]) {
  if constexpr (S::kRepeatsPairs) {
    typename S::Pairs pairs[kVecs];
    for (size_t v = 0; v < kVecs; ++v) pairs[v] = load(v);
    for (size_t q = 0; q < kQueries; ++q) {
      const auto repeated = S::repeat_pair(pair + q * stride);
      for (size_t v = 0; v < kVecs; ++v) sum[q][v] = S::dot_pairs(repeated, pairs[v], sum[q][v]);
    }
  } else {
    for (size_t v = 0; v < kVecs; ++v) {
      const auto pairs = load(v);
      for (size_t q = 0; q < kQueries; ++q)
        sum[q][v] = S::dot_pairs(S::repeat_pair(pair + q * stride), pairs, sum[q][v]);
    }
  }
}

// scores[q][key] = scale * q . key for kVecs * 16 keys of the piece from vector `first` on, which
// is a multiple of kVecs.
template <class S, size_t kQueries, size_t kVecs>
inline void score_keys(const AttentionTile& tile, const typename S::Element* queries,
                       const Piece& piece, size_t first, float* scores) {
  constexpr size_t kPageVecs = kPageKeys / kLanes;
  constexpr size_t kPages = (kVecs + kPageVecs - 1) / kPageVecs;
  constexpr size_t kLines = kVecs / kPages;  // of each page, with a pair
  const std::byte* keys[kPages];
  const std::byte* next[kPages];
  for (size_t page = 0; page < kPages; ++page) {
    const size_t line = first % kPageVecs * 64;
    keys[page] = piece.keys[first / kPageVecs + page] + line;
    next[page] = piece.fetched_with_keys[first / kPageVecs + page] + line;
  }
  typename S::Vec sum[kQueries][kVecs];
  for (auto& row : sum)
    for (auto& x : row) x = S::set1(0.0f);
  const size_t n_pairs = tile.head_dim / 2;
  const size_t fetched = kv_region_bytes(tile.format, tile.head_dim) / n_pairs;  // with a pair
  for (size_t pair = 0; pair < n_pairs; ++pair) {
    for (const std::byte* page : next) fetch_lines<S, kLines>(page + pair * fetched);
    const auto load = [&](size_t v) __attribute__((always_inline)) {
      return S::load_pairs(keys[v / kPageVecs] + pair * kPageKeys * 4 + v % kPageVecs * 64);
    };
    add_pair<S>(queries + 2 * pair, kQueryStride, load, sum);
  }
  for (size_t q = 0; q < kQueries; ++q)
    for (size_t v = 0; v < kVecs; ++v)
      S::store(scores + q * kPieceKeys + (first + v) * kLanes,
               S::mul(sum[q][v], S::set1(tile.scale)));
}

// Of all scores of a block, also those that were not computed.
template <class S>
inline void cap_scores(float softcap, size_t n, float* scores) {
  const auto cap = S::set1(softcap);
  for (size_t i = 0; i < n; i += kLanes)
    S::store(scores + i, S::mul(cap, tanh<S>(S::div(S::load(scores + i), cap))));
}

template <class S, size_t kQueries>
inline void score_piece(const AttentionTile& tile, const Piece& piece, size_t q0,
                        const TileState<S>& state, BlockScratch<S, kQueries>& s) {
  constexpr size_t kPieceVecs = kPieceKeys / kLanes;
  constexpr size_t kVecs = kBlockVecs<S, kQueries>;
  if (kVecs == kPieceVecs && piece.keys[0] != nullptr && piece.keys[1] != nullptr) {
    score_keys<S, kQueries, kVecs>(tile, state.queries[q0], piece, 0, s.scores[0]);
  } else {
    constexpr size_t kFew = kVecs < kPieceVecs ? kVecs : kPieceVecs / 2;
    for (size_t v = 0; v < kPieceVecs; v += kFew)
      if (piece.keys[v * kLanes / kPageKeys] != nullptr)
        score_keys<S, kQueries, kFew>(tile, state.queries[q0], piece, v, s.scores[0]);
  }
  if (tile.softcap != 0) cap_scores<S>(tile.softcap, kQueries * kPieceKeys, s.scores[0]);
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

// x, vector `at / 16` of a piece, with -inf at keys out of range. (Always inline, as what calls it:
// most ranges are the whole piece, a constant.)
template <class S>
[[gnu::always_inline]] inline typename S::Vec keep_range(KeyRange range, size_t at,
                                                         typename S::Vec x) {
  if (range.first <= at && at + kLanes <= range.last) return x;
  const auto first = static_cast<int64_t>(range.first - at);
  const auto last = static_cast<int64_t>(range.last - at);
  return lanes_between<S>(first, last, x, S::set1(-__builtin_inff()));
}

// The highest scores of a range, lane by lane.
template <class S>
[[gnu::always_inline]] inline typename S::Vec highest_scores(const float* scores, KeyRange range) {
  auto best = S::set1(-__builtin_inff());
  for (size_t at = range.first & ~size_t{15}; at < range.last; at += kLanes)
    best = S::max(keep_range<S>(range, at, S::load(scores + at)), best);
  return best;
}

// weights = exp(score - best), rounded to bfloat16; keys out of range become 0 where a vector of 16
// holds some in range. The sums, lane by lane. fetch() is called with every vector.
template <class S, class Fetch>
[[gnu::always_inline]] inline typename S::Vec exponentials(const float* scores, KeyRange range,
                                                           float best, typename S::Element* weights,
                                                           const Fetch& fetch) {
  auto sum = S::set1(0.0f);
  for (size_t at = range.first & ~size_t{15}; at < range.last; at += kLanes) {
    fetch();
    const auto x = S::sub(S::load(scores + at), S::set1(best));
    // e^-inf is 0
    const auto weight = exp_for_bf16<S>(keep_range<S>(range, at, x));
    sum = S::add(sum, store_rounded<S>(weights + at, weight));
  }
  return sum;
}

// The weights of a block's scores, their maxima and sums. Meanwhile memory is given no pause: the
// first of the lines that are fetched with the values may come in, S::kFetchedWithWeights of each
// page with a vector.
template <class S, size_t kQueries>
inline void weigh(const Piece& piece, BlockScratch<S, kQueries>& s) {
  constexpr KeyRange kWhole = {0, kPieceKeys};
  size_t at = 0;  // of each page
  const auto fetch = [&]() __attribute__((always_inline)) {
    for (const std::byte* page : piece.fetched_with_values)
      fetch_lines<S, S::kFetchedWithWeights>(page + at);
    at += 64 * S::kFetchedWithWeights;
  };
  typename S::Vec rows[kQueries];
  for (size_t q = 0; q < kQueries; ++q)
    rows[q] = s.is_whole ? highest_scores<S>(s.scores[q], kWhole)
                         : highest_scores<S>(s.scores[q], s.range[q]);
  S::store(s.best, max_rows<S>(rows));
  for (size_t q = 0; q < kQueries; ++q)
    rows[q] = s.is_whole ? exponentials<S>(s.scores[q], kWhole, s.best[q], s.weights[q], fetch)
                         : exponentials<S>(s.scores[q], s.range[q], s.best[q], s.weights[q], fetch);
  S::store(s.sum, sum_rows<S>(rows));
}

// Takes the sums of the piece into the running ones and finds the factors of the outputs. A query
// that does not see the piece keeps what it has: its gain is 0 and its factor 1.
template <class S, size_t kQueries>
inline void fold_sums(const AttentionTile& tile, size_t q0, TileState<S>& state,
                      BlockScratch<S, kQueries>& s) {
  for (size_t q = 0; q < kQueries; ++q) {
    s.out[q] = tile.out[q0 + q];
    s.is_first[q] = state.total[q0 + q] == 0;
  }
  const auto old = S::load(state.best + q0), found = S::load(s.best);
  const auto total = S::load(state.total + q0), sum = S::load(s.sum);
  const auto best = S::max(found, old);
  const auto keep = exp<S>(S::sub(old, best)), gain = exp<S>(S::sub(found, best));
  const auto folded = S::fma(sum, gain, S::mul(total, keep));
  const auto is_started = S::set1(0.5f);
  S::store(state.best + q0, S::first_lanes(kQueries, best, old));
  S::store(state.total + q0,
           S::first_lanes(kQueries, S::select_less(total, is_started, sum, folded), total));
  S::store(s.keep, keep);
  S::store(s.gain, gain);
}

// acc += weights * values for the keys of `range`, pair by pair. A key out of range is left out,
// not multiplied by 0: of a pair that is half in range, the other half's value is replaced.
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

template <class S>
inline void fold_output(float* out, typename S::Vec found, bool is_first, float keep, float gain) {
  const auto kept = S::mul(S::load(out), S::set1(keep));
  S::store(out, is_first ? found : S::fma(found, S::set1(gain), kept));
}

// acc += weights * values for kVecs * 16 dimensions from `dim` on and the whole pairs of `range`,
// which begins with one. As many of the next values are fetched meanwhile.
template <class S, size_t kQueries, size_t kVecs>
[[gnu::always_inline]] inline void add_pairs(const AttentionTile& tile, const Piece& piece,
                                             size_t dim, KeyRange range,
                                             const BlockScratch<S, kQueries>& s,
                                             typename S::Vec (&acc)[kQueries][kVecs]) {
  const size_t element = kv_region_bytes(tile.format, tile.head_dim) / tile.head_dim;
  const size_t fetched = element * kVecs * kLanes * 2 / kPieceKeys;  // with a pair of keys
  for (size_t key = range.first; key + 1 < range.last; key += 2) {
    const std::byte* values =
        piece.values[key / kPageKeys] + (key % kPageKeys / 2 * tile.head_dim + dim) * 4;
    for (const std::byte* next : piece.fetched_with_values)
      fetch_lines<S, (kVecs + 1) / 2>(next + dim * element + key / 2 * fetched);
    const auto load = [&](size_t v) __attribute__((always_inline)) {
      return S::load_pairs(values + v * 64);
    };
    add_pair<S>(s.weights[0] + key, kPieceKeys, load, acc);
  }
}

// The sums of a block whose queries see the same keys: they never leave the registers.
template <class S, size_t kQueries, size_t kVecs>
[[gnu::always_inline]] inline void sum_alike(const AttentionTile& tile, const Piece& piece,
                                             size_t dim, KeyRange range,
                                             const BlockScratch<S, kQueries>& s,
                                             typename S::Vec (&acc)[kQueries][kVecs]) {
  add_pairs<S, kQueries, kVecs>(tile, piece, dim, range, s, acc);
  if (range.last % 2 == 0) return;
  const size_t key = range.last - 1;
  const std::byte* values =
      piece.values[key / kPageKeys] + (key % kPageKeys / 2 * tile.head_dim + dim) * 4;
  for (size_t v = 0; v < kVecs; ++v) {
    const auto value = S::even_only(S::load_pairs(values + v * 64));
    for (size_t q = 0; q < kQueries; ++q)
      acc[q][v] = S::dot_pairs(S::repeat_pair(s.weights[q] + key), value, acc[q][v]);
  }
}

// The sums of any block, in the order of the keys: what all of its queries see together, the rest
// query by query.
template <class S, size_t kQueries, size_t kVecs>
[[gnu::always_inline]] inline void sum_each(const AttentionTile& tile, const Piece& piece,
                                            size_t dim, const BlockScratch<S, kQueries>& s,
                                            typename S::Vec (&acc)[kQueries][kVecs]) {
  const bool has_common = s.common.first < s.common.last;
  for (size_t q = 0; q < kQueries; ++q) {
    const KeyRange before = {s.range[q].first, has_common ? s.common.first : s.range[q].last};
    if (before.first < before.last)
      add_some_pairs<S, kVecs>(tile, piece, dim, before, s.weights[q], acc[q]);
  }
  add_pairs<S, kQueries, kVecs>(tile, piece, dim, s.common, s, acc);
  for (size_t q = 0; q < kQueries; ++q) {
    const KeyRange after = {s.common.last, s.range[q].last};
    if (has_common && after.first < after.last)
      add_some_pairs<S, kVecs>(tile, piece, dim, after, s.weights[q], acc[q]);
  }
}

// What the queries of a block see of a piece.
enum class Sight { kWhole, kAlike, kEach };

// out[q][dim ...] takes in the sum over the piece's keys of weight * value, for kVecs * 16
// dimensions from `dim` on.
template <class S, size_t kQueries, size_t kVecs, Sight kSight>
inline void take_values(const AttentionTile& tile, const Piece& piece, size_t dim,
                        const BlockScratch<S, kQueries>& s) {
  typename S::Vec acc[kQueries][kVecs];
  for (auto& row : acc)
    for (auto& a : row) a = S::set1(0.0f);
  if constexpr (kSight == Sight::kWhole)
    add_pairs<S, kQueries, kVecs>(tile, piece, dim, {0, kPieceKeys}, s, acc);
  else if constexpr (kSight == Sight::kAlike)
    sum_alike<S, kQueries, kVecs>(tile, piece, dim, s.range[0], s, acc);
  else
    sum_each<S, kQueries, kVecs>(tile, piece, dim, s, acc);
  for (size_t q = 0; q < kQueries; ++q) {
    if (kSight == Sight::kEach && s.range[q].first >= s.range[q].last) continue;
    for (size_t v = 0; v < kVecs; ++v)
      fold_output<S>(s.out[q] + dim + v * kLanes, acc[q][v], s.is_first[q], s.keep[q], s.gain[q]);
  }
}

template <class S, size_t kQueries, Sight kSight>
inline void take_all_values(const AttentionTile& tile, const Piece& piece,
                            const BlockScratch<S, kQueries>& s) {
  constexpr size_t kVecs = kBlockVecs<S, kQueries>;
  size_t dim = 0;
  for (; dim + kVecs * kLanes <= tile.head_dim; dim += kVecs * kLanes)
    take_values<S, kQueries, kVecs, kSight>(tile, piece, dim, s);
  for (; dim < tile.head_dim; dim += kLanes)
    take_values<S, kQueries, 1, kSight>(tile, piece, dim, s);
}

// Aims the outputs at the parts of this piece (kernels.h), without folding.
template <class S, size_t kQueries>
inline void aim_at_parts(const AttentionTile& tile, size_t q0, int64_t piece,
                         BlockScratch<S, kQueries>& s) {
  const auto at = static_cast<size_t>(piece - tile.first_piece) * part_floats(tile.head_dim);
  for (size_t q = 0; q < kQueries; ++q) {
    float* part = tile.out[q0 + q] + at;
    part[0] = s.best[q];
    part[1] = s.sum[q];
    s.out[q] = part + kLanes;
    s.is_first[q] = true;
    s.keep[q] = s.gain[q] = 0;
  }
}

template <class S, size_t kQueries>
void attend_block(const AttentionTile& tile, const Piece& piece, size_t q0, TileState<S>& state) {
  BlockScratch<S, kQueries> s;
  if (!find_ranges<S, kQueries>(tile, q0, piece.index, s)) return;
  score_piece<S, kQueries>(tile, piece, q0, state, s);
  weigh<S, kQueries>(piece, s);
  if (tile.in_parts)
    aim_at_parts<S, kQueries>(tile, q0, piece.index, s);
  else
    fold_sums<S, kQueries>(tile, q0, state, s);
  if (s.is_whole)
    take_all_values<S, kQueries, Sight::kWhole>(tile, piece, s);
  else if (s.is_alike)
    take_all_values<S, kQueries, Sight::kAlike>(tile, piece, s);
  else
    take_all_values<S, kQueries, Sight::kEach>(tile, piece, s);
}

// The function of a block of q queries stands at q - 1.
template <class S>
struct AttendBlock {
  using Fn = void (*)(const AttentionTile& tile, const Piece& piece, size_t q0,
                      TileState<S>& state);
  Fn of[S::kBlockQueries];

  template <size_t... kBefore>
  static constexpr AttendBlock make(std::index_sequence<kBefore...>) {
    return {{attend_block<S, kBefore + 1>...}};
  }
};

// In as few blocks as may be, of nearly equal size.
template <class S>
void attend_piece(const AttentionTile& tile, const Piece& piece, TileState<S>& state) {
  static constexpr auto kBlocks =
      AttendBlock<S>::make(std::make_index_sequence<S::kBlockQueries>());
  size_t n_blocks = (tile.n_queries + S::kBlockQueries - 1) / S::kBlockQueries;
  for (size_t q = 0; n_blocks > 0; --n_blocks) {
    const size_t n = (tile.n_queries - q + n_blocks - 1) / n_blocks;
    kBlocks.of[n - 1](tile, piece, q, state);
    q += n;
  }
}

template <class S>
inline void begin_tile(const AttentionTile& tile, TileState<S>& state) {
  for (size_t q = 0; q < tile.n_queries; ++q) {
    for (size_t i = 0; i < tile.head_dim; i += kLanes)
      S::store_elements(state.queries[q] + i, S::load(tile.queries[q] + i));
    state.best[q] = -__builtin_inff();
    state.total[q] = 0;
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

// Whether a piece is too large to be fetched while the one before it is computed: see fetch_during.
template <class S>
inline bool fetches_late(const AttentionTile& tile) {
  return tile.format != KvFormat::kQ8_0 &&  // whose values are restored before anything else
         4 * kv_region_bytes(tile.format, tile.head_dim) > S::kFetchedAhead;
}

// Chooses what of half i of a piece is fetched meanwhile: with its keys the keys that come next, or
// any where there are none, and with its values theirs; or, where that is too far ahead for lines
// to wait in the second-level cache, with its keys its values and with these the next keys.
template <class S>
inline void fetch_during(Piece& piece, size_t i, bool is_late, const std::byte* next_keys,
                         const std::byte* next_values) {
  is_late = is_late && piece.values[i] != nullptr;
  piece.fetched_with_keys[i] = is_late ? piece.values[i] : next_keys;
  piece.fetched_with_values[i] = is_late ? next_keys : next_values;
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
  const bool is_late = fetches_late<S>(tile);
  for (int64_t index = first; index < last; ++index) {
    Piece piece{index, {}, {}, {}, {}};
    for (size_t i = 0; i < 2; ++i) {
      const int64_t page = 2 * index + static_cast<int64_t>(i);
      if (page * kPage < end && (page + 1) * kPage > begin) open(piece, i, tile.pages[page]);
      const bool goes_on = index + 1 < last;
      const int64_t next = goes_on && (page + 2) * kPage < end ? page + 2 : (end - 1) / kPage;
      const std::byte* keys =
          !goes_on && tile.after[i] != nullptr ? tile.after[i] : tile.pages[next] + tile.k_offset;
      fetch_during<S>(piece, i, is_late, keys, keys + (tile.v_offset - tile.k_offset));
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

}  // namespace smallmind::kernel
