// Attention over paged keys and values (numerics.md, "Attention"). Keys are taken in pieces of 64
// that start at absolute multiples of 64; each (query, piece) yields its own maximum, sum and
// unnormalised output, folded from left to right. The sum over a pair of elements is fma(odd) then
// fma(even), which is what the bfloat16 dot instructions compute.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

inline constexpr size_t kLanes = 16;

// The part of a piece that one query sees, in keys from the piece's start; empty when first >=
// last.
struct KeyRange {
  size_t first = 0;
  size_t last = 0;
};

// Working memory of one tile, on the stack. (S in the name: see quant/panel.h, group_offset.)
template <class S, size_t kQueries>
struct AttentionScratch {
  alignas(64) float weights[kQueries][kPieceKeys];  // scores, then unnormalised probabilities
  alignas(64) float piece_out[kQueries][kMaxHeadDim];
  KeyRange range[kQueries];
  float best[kQueries];   // running maximum
  float total[kQueries];  // running sum of exp(score - best)
  bool started[kQueries];
};

// weights[q][key] = q . key, for 16 keys.
template <class S, size_t kQueries>
inline void score_keys(const AttentionTile& tile, const std::byte* keys, size_t at,
                       AttentionScratch<S, kQueries>& s) {
  typename S::Vec acc[kQueries];
  for (auto& a : acc) a = S::set1(0.0f);
  for (size_t pair = 0; pair < tile.head_dim / 2; ++pair) {
    const std::byte* line = keys + pair * kPageKeys * 4;
    const auto odd = S::load_odd_bf16(line);
    const auto even = S::load_even_bf16(line);
    for (size_t q = 0; q < kQueries; ++q) {
      acc[q] = S::fma(S::set1(tile.queries[q][2 * pair + 1]), odd, acc[q]);
      acc[q] = S::fma(S::set1(tile.queries[q][2 * pair]), even, acc[q]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    auto score = S::mul(acc[q], S::set1(tile.scale));
    if (tile.softcap > 0) {
      const auto cap = S::set1(tile.softcap);
      score = S::mul(cap, tanh<S>(S::div(score, cap)));
    }
    S::store(s.weights[q] + at, score);
  }
}

// Lanes [first, last) of x, the others of y; bounds relative to the vector, clamped.
template <class S>
inline typename S::Vec lanes_between(int64_t first, int64_t last, typename S::Vec x,
                                     typename S::Vec y) {
  const auto clamp = [](int64_t n) { return static_cast<size_t>(n < 0 ? 0 : n > 16 ? 16 : n); };
  return S::first_lanes(clamp(last), S::first_lanes(clamp(first), y, x), y);
}

struct PieceSum {
  float best;
  float sum;
};

// Turns the scores of a query's keys into exp(score - max), rounded to bfloat16; keys out of range
// become 0.
template <class S>
inline PieceSum softmax_piece(float* weights, KeyRange range) {
  const auto lowest = S::set1(-__builtin_inff());
  const auto first = static_cast<int64_t>(range.first), last = static_cast<int64_t>(range.last);
  auto best = lowest;
  for (int64_t at = 0; at < static_cast<int64_t>(kPieceKeys); at += 16)
    if (at < last && at + 16 > first)
      best = S::max(lanes_between<S>(first - at, last - at, S::load(weights + at), lowest), best);
  const float maximum = max_lanes<S>(best);
  const auto zero = S::set1(0.0f);
  auto sum = zero;
  for (int64_t at = 0; at < static_cast<int64_t>(kPieceKeys); at += 16) {
    if (at >= last || at + 16 <= first) continue;
    const auto p = round_bf16<S>(exp<S>(S::sub(S::load(weights + at), S::set1(maximum))));
    const auto kept = lanes_between<S>(first - at, last - at, p, zero);
    S::store(weights + at, kept);
    sum = S::add(sum, kept);
  }
  return {maximum, sum_lanes<S>(sum)};
}

// acc += weights of one pair of keys * their values, for kVecs * 16 dimensions; keys outside
// [first, last) are left out, not multiplied by 0.
template <class S, size_t kVecs>
inline void add_pair(const float* weights, size_t key, KeyRange range, const std::byte* values,
                     typename S::Vec* acc) {
  for (size_t v = 0; v < kVecs; ++v) {
    if (key + 1 >= range.first && key + 1 < range.last)
      acc[v] = S::fma(S::set1(weights[key + 1]), S::load_odd_bf16(values + v * 64), acc[v]);
    if (key >= range.first && key < range.last)
      acc[v] = S::fma(S::set1(weights[key]), S::load_even_bf16(values + v * 64), acc[v]);
  }
}

// piece_out[q][dim ...] = sum over the piece's keys of weight * value, for kVecs * 16 dimensions
// from `dim` on.
template <class S, size_t kQueries, size_t kVecs>
inline void sum_values(const AttentionTile& tile, size_t piece, size_t dim,
                       AttentionScratch<S, kQueries>& s) {
  typename S::Vec acc[kQueries][kVecs];
  size_t any_first = kPieceKeys, any_last = 0, all_first = 0, all_last = kPieceKeys;
  for (size_t q = 0; q < kQueries; ++q) {
    for (auto& a : acc[q]) a = S::set1(0.0f);
    const KeyRange r = s.range[q];
    if (r.first < r.last) {
      any_first = r.first < any_first ? r.first : any_first;
      any_last = r.last > any_last ? r.last : any_last;
    }
    all_first = r.first > all_first ? r.first : all_first;
    all_last = r.last < all_last ? r.last : all_last;
  }
  for (size_t key = any_first & ~size_t{1}; key < any_last; key += 2) {
    const std::byte* page = tile.pages[piece * 2 + key / kPageKeys];
    const std::byte* values =
        page + tile.v_offset + (key % kPageKeys / 2 * tile.head_dim + dim) * 4;
    if (key >= all_first && key + 2 <= all_last) {  // every query sees both keys
      for (size_t v = 0; v < kVecs; ++v) {
        const auto odd = S::load_odd_bf16(values + v * 64);
        const auto even = S::load_even_bf16(values + v * 64);
        for (size_t q = 0; q < kQueries; ++q) {
          acc[q][v] = S::fma(S::set1(s.weights[q][key + 1]), odd, acc[q][v]);
          acc[q][v] = S::fma(S::set1(s.weights[q][key]), even, acc[q][v]);
        }
      }
    } else {
      for (size_t q = 0; q < kQueries; ++q)
        add_pair<S, kVecs>(s.weights[q], key, s.range[q], values, acc[q]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q)
    for (size_t v = 0; v < kVecs; ++v) S::store(s.piece_out[q] + dim + v * kLanes, acc[q][v]);
}

// Folds a piece into a query's running result.
template <class S, size_t kQueries>
inline void fold_piece(const AttentionTile& tile, size_t q, PieceSum piece,
                       AttentionScratch<S, kQueries>& s) {
  float* out = tile.out[q];
  if (!s.started[q]) {
    s.started[q] = true;
    s.best[q] = piece.best;
    s.total[q] = piece.sum;
    for (size_t i = 0; i < tile.head_dim; i += kLanes)
      S::store(out + i, S::load(s.piece_out[q] + i));
    return;
  }
  const float best = piece.best > s.best[q] ? piece.best : s.best[q];
  alignas(64) float factors[kLanes] = {s.best[q] - best, piece.best - best};
  S::store(factors, exp<S>(S::load(factors)));
  const auto old_factor = S::set1(factors[0]), new_factor = S::set1(factors[1]);
  s.best[q] = best;
  s.total[q] = __builtin_fmaf(piece.sum, factors[1], s.total[q] * factors[0]);
  for (size_t i = 0; i < tile.head_dim; i += kLanes) {
    const auto kept = S::mul(S::load(out + i), old_factor);
    S::store(out + i, S::fma(S::load(s.piece_out[q] + i), new_factor, kept));
  }
}

template <class S, size_t kQueries>
inline void attend_piece(const AttentionTile& tile, int64_t piece,
                         AttentionScratch<S, kQueries>& s) {
  const int64_t start = piece * static_cast<int64_t>(kPieceKeys);
  size_t first = kPieceKeys, last = 0;
  for (size_t q = 0; q < kQueries; ++q) {
    const int64_t from = tile.begin[q] > start ? tile.begin[q] - start : 0;
    const int64_t to = tile.end[q] - start < static_cast<int64_t>(kPieceKeys)
                           ? tile.end[q] - start
                           : static_cast<int64_t>(kPieceKeys);
    s.range[q] =
        from < to ? KeyRange{static_cast<size_t>(from), static_cast<size_t>(to)} : KeyRange{};
    if (from >= to) continue;
    first = s.range[q].first < first ? s.range[q].first : first;
    last = s.range[q].last > last ? s.range[q].last : last;
  }
  if (first >= last) return;
  const auto i_piece = static_cast<size_t>(piece);
  for (size_t key = first & ~(kLanes - 1); key < last; key += kLanes) {
    const std::byte* page = tile.pages[i_piece * 2 + key / kPageKeys];
    score_keys<S, kQueries>(tile, page + tile.k_offset + key % kPageKeys * 4, key, s);
  }
  PieceSum sums[kQueries] = {};
  for (size_t q = 0; q < kQueries; ++q)
    if (s.range[q].first < s.range[q].last) sums[q] = softmax_piece<S>(s.weights[q], s.range[q]);
  size_t dim = 0;
  for (; dim + 4 * kLanes <= tile.head_dim; dim += 4 * kLanes)
    sum_values<S, kQueries, 4>(tile, i_piece, dim, s);
  for (; dim < tile.head_dim; dim += kLanes) sum_values<S, kQueries, 1>(tile, i_piece, dim, s);
  for (size_t q = 0; q < kQueries; ++q)
    if (s.range[q].first < s.range[q].last) fold_piece<S, kQueries>(tile, q, sums[q], s);
}

template <class S, size_t kQueries>
void attend(const AttentionTile& tile) {
  AttentionScratch<S, kQueries> s;
  int64_t first = tile.begin[0], last = tile.end[0];
  for (size_t q = 0; q < kQueries; ++q) {
    s.started[q] = false;
    first = tile.begin[q] < first ? tile.begin[q] : first;
    last = tile.end[q] > last ? tile.end[q] : last;
  }
  for (int64_t piece = first / static_cast<int64_t>(kPieceKeys);
       piece * static_cast<int64_t>(kPieceKeys) < last; ++piece)
    attend_piece<S, kQueries>(tile, piece, s);
  for (size_t q = 0; q < kQueries; ++q) {
    const auto total = S::set1(s.total[q]);
    for (size_t i = 0; i < tile.head_dim; i += kLanes)
      S::store(tile.out[q] + i, S::div(S::load(tile.out[q] + i), total));
  }
}

template <class S>
void attention(const AttentionTile& tile) {
  if constexpr (S::kAttentionQueries >= 4) {
    switch (tile.n_queries) {
      case 4:
        return attend<S, 4>(tile);
      case 3:
        return attend<S, 3>(tile);
      case 2:
        return attend<S, 2>(tile);
      default:
        return attend<S, 1>(tile);
    }
  } else {
    AttentionTile one = tile;
    for (size_t q = 0; q < tile.n_queries; ++q) {
      one.queries[0] = tile.queries[q];
      one.begin[0] = tile.begin[q];
      one.end[0] = tile.end[q];
      one.out[0] = tile.out[q];
      attend<S, 1>(one);
    }
  }
}

}  // namespace smallmind::kernel
