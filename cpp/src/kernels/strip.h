// What the products of integer and of float weights share: fetching a panel ahead of its use, and
// writing the rows of a strip.
#pragma once

#include "kernels/kernels.h"
#include "quant/formats.h"

namespace smallmind::kernel {

// How far ahead of its use a panel is fetched from memory by the first tile of tokens.
inline constexpr size_t kPrefetchBytes = 8192;

// Where to. One token at a time waits for memory and little else, and finds its panel in the
// first-level cache, where that one can await enough lines. Tiles of more compute in the meantime:
// fetches into the second level only hold none of the few places in which the first one awaits its
// lines. (Float weights are fetched into the first one always.)
enum class Fetch { kNone, kFirstLevel, kSecondLevel };

// Fetches a stretch of memory at an even pace. (Functions that more than one instruction set could
// emit name theirs, see quant/panel.h.)
template <class S, Fetch kFetch>
struct Prefetcher {
  const std::byte* at;

  explicit Prefetcher(const std::byte* panel) : at(panel + kPrefetchBytes) {}
  // A line now and then twice, but n_bytes is constant and so no branch is left: that of a loop
  // over whole lines goes wrong again and again where a block is not of whole lines, as in Q8_0.
  [[gnu::always_inline]] void advance(size_t n_bytes) {
    if constexpr (kFetch != Fetch::kNone) {
      constexpr int kLocality = kFetch == Fetch::kFirstLevel ? 3 : 2;
      for (size_t i = 0; i < n_bytes; i += 64) __builtin_prefetch(at + i, 0, kLocality);
      at += n_bytes;
    }
  }
};

// The first n rows of a strip.
template <class S>
inline void store_rows(float* to, typename S::Row x, size_t n) {
  if (n >= S::kRows) return S::store_row(to, x);
  float rows[S::kRows];
  S::store_row(rows, x);
  for (size_t r = 0; r < n; ++r) to[r] = rows[r];
}

}  // namespace smallmind::kernel
