// How threads share the items of a region that have an owner each.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>

#include "base/gang.h"
#include "base/machine.h"

namespace smallmind {

// The workers of a gang own n things in order, each as many as the others.
struct Ownership {
  size_t n;
  size_t n_workers;

  size_t first_of(size_t worker) const { return n * worker / n_workers; }
  size_t owner_of(size_t i) const { return ((i + 1) * n_workers - 1) / n; }
};

// A list of items for each worker of a gang. A worker goes through its own list, from front to
// back, and then takes from the others': what the same tokens' items leave in its caches is found
// there by the next region, and all workers finish together. Lives for one region.
class WorkerShares {
 public:
  // size(worker): how many items its list has. REQUIRES: n_workers <= kMaxThreads.
  template <class Size>
  WorkerShares(int n_workers, const Size& size) : n_lists_(static_cast<size_t>(n_workers)) {
    for (size_t i = 0; i < n_lists_; ++i) n_items_ += lists_[i].size = size(i);
  }

  // fn(list, item) for every item of every list.
  template <class Fn>
  void for_each(Gang& gang, const Fn& fn) {
    gang.for_each(std::min(n_lists_, n_items_), [&](size_t, int worker) {
      for (size_t i = 0; i < n_lists_; ++i) {
        const size_t at = (static_cast<size_t>(worker) + i) % n_lists_;
        List& list = lists_[at];
        // What an item's computation writes is published by the end of the region.
        while (list.next.load(std::memory_order_relaxed) < list.size) {
          const size_t item = list.next.fetch_add(1, std::memory_order_relaxed);
          if (item < list.size) fn(at, item);
        }
      }
    });
  }

 private:
  struct alignas(64) List {
    std::atomic<size_t> next{0};
    size_t size = 0;
  };

  size_t n_lists_;
  size_t n_items_ = 0;
  std::array<List, kMaxThreads> lists_;
};

}  // namespace smallmind
