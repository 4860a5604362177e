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

// Fetches kPanels panels that lie one after the other, each at an even pace, and then the next as
// many. (Functions that more than one instruction set could emit name theirs, see quant/panel.h.)
template <class S, Fetch kFetch, size_t kPanels = 1>
class Prefetcher {
 public:
  [[gnu::always_inline]] Prefetcher(const std::byte* panel, size_t panel_bytes)
      : panel_bytes_(panel_bytes) {
    constexpr size_t kMost = kPanels * kPrefetchBytes;
    const size_t distance = kPanels == 1 || kMost < panel_bytes ? kMost : panel_bytes;
    at_ = panel + distance;
    next_ = panel + panel_bytes;
  }
  // A line now and then twice, but n_bytes is constant and so no branch is left: that of a loop
  // over whole lines goes wrong again and again where a block is not of whole lines, as in Q8_0.
  [[gnu::always_inline]] void advance(size_t n_bytes) {
    if constexpr (kFetch != Fetch::kNone) {
      constexpr int kLocality = kFetch == Fetch::kFirstLevel ? 3 : 2;
      if constexpr (kPanels > 1)
        if (at_ >= next_) {
          at_ += (kPanels - 1) * panel_bytes_;
          next_ = at_ + panel_bytes_;
        }
      for (size_t p = 0; p < kPanels; ++p)
        for (size_t i = 0; i < n_bytes; i += 64)
          __builtin_prefetch(at_ + p * panel_bytes_ + i, 0, kLocality);
      at_ += n_bytes;
    }
  }

 private:
  const std::byte* at_;  // of the first panel
  const std::byte* next_;
  size_t panel_bytes_;
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
