// How threads share the panels of a product.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>

#include "base/gang.h"
#include "base/machine.h"
#include "kernels/kernels.h"
#include "quant/panel.h"

namespace smallmind {

// The panels of a matrix from `first` on.
inline PackedMatrix panels_from(PackedMatrix matrix, size_t first) {
  matrix.panels += first * matrix.panel_bytes;
  matrix.n_rows -= first * quant::kPanelRows;
  return matrix;
}

// Panels [0, n_panels) in one region of a gang. Each thread has a range of its own and goes through
// it in order, so that what is fetched ahead is what the same thread reads next. It takes half of
// what is left at a time: a thread at the end of its range takes from the others', and all finish
// together. Lives for one region; nothing is allocated.
class PanelShares {
 public:
  // Each product has n_columns inputs for each of n_tokens tokens.
  PanelShares(size_t n_panels, size_t n_columns, size_t n_tokens, int n_threads)
      : n_ranges_(std::min(static_cast<size_t>(n_threads), kMaxRanges)) {
    const size_t panel_work = n_columns * (n_tokens + kTokensOfUnpacking);
    least_ = (kLeastWork + panel_work - 1) / panel_work;
    for (size_t i = 0; i < n_ranges_; ++i) {
      ranges_[i].next.store(border(i, n_panels), std::memory_order_relaxed);
      ranges_[i].end = border(i + 1, n_panels);
    }
  }

  // fn(first, n) for pieces that cover all panels; n is even (whole blocks of 32 rows) but at the
  // end of a range.
  template <class Fn>
  void for_each(Gang& gang, const Fn& fn) {
    gang.for_each(n_ranges_, [&](size_t, int worker) {
      for (size_t i = 0; i < n_ranges_; ++i) {
        Range& range = ranges_[(static_cast<size_t>(worker) + i) % n_ranges_];
        for (Piece piece; (piece = take(range)).n > 0;) fn(piece.first, piece.n);
      }
    });
  }

 private:
  static constexpr size_t kMaxRanges = kMaxThreads;
  static constexpr size_t kTokensOfUnpacking = 2;  // a panel is read and unpacked in as much time
  // In columns times tokens: about a microsecond, ten times what taking a piece costs.
  static constexpr size_t kLeastWork = 10'000;

  struct alignas(64) Range {
    std::atomic<size_t> next;
    size_t end;
  };

  struct Piece {
    size_t first;
    size_t n;
  };

  // What a piece's computation writes is published by the end of the region.
  Piece take(Range& range) const {
    size_t first = range.next.load(std::memory_order_relaxed);
    for (;;) {
      const size_t left = range.end - first;
      const size_t n = std::min(left, (std::max(left / 2, least_) + 1) & ~size_t{1});
      if (n == 0 || range.next.compare_exchange_weak(first, first + n, std::memory_order_relaxed))
        return {first, n};
    }
  }

  size_t border(size_t range, size_t n_panels) const {
    return range == n_ranges_ ? n_panels : n_panels * range / n_ranges_ & ~size_t{1};
  }

  size_t n_ranges_;
  size_t least_;
  std::array<Range, kMaxRanges> ranges_;
};

}  // namespace smallmind
