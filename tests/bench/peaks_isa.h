// The loops of peaks.h, over the same instructions as the kernels. Compiled once for each
// instruction set, with its flags. (Sums are addressed by packs of constants: an array that a loop
// indexes would stay in memory.)
#pragma once

#include <utility>

#include "kernels/strip.h"
#include "peaks.h"

namespace smallmind::bench {

// Sums in flight: enough to hide the latency, and no more than there are registers. (Avx2 begins a
// partial sum beside the dot's own with each block: its blocks overlap by themselves.)
template <class S>
inline constexpr size_t kDots = S::kRows == 16                  ? 12
                                : sizeof(typename S::Dot) == 32 ? 8
                                                                : 1;
template <class S>
inline constexpr size_t kPairDots = S::kRows == 16 ? 8 : 4;
inline constexpr size_t kFmas = 8;

// Inputs are read anew, so that no product leaves the loop.
template <class S>
inline void forget(const void* inputs) {
  __asm__ volatile("" : : "r"(inputs) : "memory");
}

// Group kGroup of a block, for every dot.
template <class S, int kGroup, size_t... d>
inline void add_group(typename S::Dot* dots, typename S::Bytes codes, const int8_t* inputs,
                      std::index_sequence<d...>) {
  (S::template dot_add<4, false, kGroup>(dots[d], codes, S::load_inputs(inputs + 32 * d)), ...);
}

template <class S, size_t... d, int... group>
uint64_t dots(size_t n, float* sink, std::index_sequence<d...> all,
              std::integer_sequence<int, group...>) {
  const std::byte codes[64] = {std::byte{9}};
  int8_t inputs[32 * sizeof...(d)] = {1};
  typename S::Dot sums[] = {(static_cast<void>(d), S::dot_start())...};
  const auto weights = S::load_bytes(codes);
  for (size_t i = 0; i < n; ++i) {
    forget<S>(inputs);
    (add_group<S, group>(sums, weights, inputs, all), ...);
  }
  auto total = S::dot_to_row(sums[0]);
  ((total = S::add(total, S::dot_to_row(sums[d]))), ...);
  S::store_row(sink, total);
  return uint64_t{2} * 4 * S::kRows * sizeof...(group) * sizeof...(d);
}

template <class S, size_t... s>
uint64_t fmas(size_t n, float* sink, std::index_sequence<s...>) {
  float inputs[sizeof...(s)] = {};
  typename S::Row sums[] = {S::row_set1(static_cast<float>(s))...};
  const auto weight = S::row_set1(0.5f);
  for (size_t i = 0; i < n; ++i) {
    forget<S>(inputs);
    ((sums[s] = S::fma(weight, S::row_set1(inputs[s]), sums[s])), ...);
  }
  auto total = sums[0];
  ((total = S::add(total, sums[s])), ...);
  S::store_row(sink, total);
  return uint64_t{2} * S::kRows * sizeof...(s);
}

template <class S, size_t... s>
uint64_t pair_dots(size_t n, float* sink, std::index_sequence<s...>) {
  const std::byte pairs[64] = {};
  typename S::Element inputs[2 * sizeof...(s)] = {};
  typename S::Vec sums[] = {S::set1(static_cast<float>(s))...};
  const auto weights = S::load_pairs(pairs);
  for (size_t i = 0; i < n; ++i) {
    forget<S>(inputs);
    ((sums[s] = S::dot_pairs(weights, S::repeat_pair(inputs + 2 * s), sums[s])), ...);
  }
  auto total = sums[0];
  ((total = S::add(total, sums[s])), ...);
  S::store(sink, total);
  return uint64_t{2} * 2 * 16 * sizeof...(s);
}

template <class S, bool kAhead>
void read_all(const std::byte* from, size_t n_bytes, float* sink) {
  auto sum = S::load_bytes(from);
  for (size_t at = 0; at < n_bytes; at += 64) {
    if constexpr (kAhead) __builtin_prefetch(from + at + kernel::kPrefetchBytes, 0, 3);
    for (size_t part = 0; part < 64; part += sizeof sum)
      sum = S::or_bytes(sum, S::load_bytes(from + at + part));
  }
  __builtin_memcpy(sink, &sum, sizeof sum);
}

template <class S>
constexpr Peaks make_peaks(const char* isa) {
  return {isa,
          [](size_t n, float* sink) {
            return dots<S>(n, sink, std::make_index_sequence<kDots<S>>(),
                           std::make_integer_sequence<int, 8>());
          },
          [](size_t n, float* sink) { return fmas<S>(n, sink, std::make_index_sequence<kFmas>()); },
          [](size_t n, float* sink) {
            return pair_dots<S>(n, sink, std::make_index_sequence<kPairDots<S>>());
          },
          read_all<S, false>,
          read_all<S, true>};
}

}  // namespace smallmind::bench
