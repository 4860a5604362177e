// Fork-join inside a step: the calling thread and its helpers share the items of a region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/compute_thread.h"

namespace smallmind {

// One owner thread calls for_each; it is worker 0 and computes too. for_each returns when every
// item is done (not when every helper has come). Items are claimed in ascending order, so results
// may not depend on which worker runs an item. What an item throws is rethrown by for_each after
// the region has ended. Helpers block all signals and set the standard floating-point control at
// their start.
class Gang {
 public:
  explicit Gang(int n_threads);  // n_threads - 1 helpers
  ~Gang();
  Gang(const Gang&) = delete;
  Gang& operator=(const Gang&) = delete;

  int n_threads() const noexcept;

  // fn(size_t item, int worker), worker in [0, n_threads).
  template <class Fn>
  void for_each(size_t n_items, const Fn& fn) {
    run(
        n_items,
        [](const void* f, size_t item, int worker) { (*static_cast<const Fn*>(f))(item, worker); },
        &fn);
  }

 private:
  using ItemFn = void (*)(const void* fn, size_t item, int worker);
  void run(size_t n_items, ItemFn call, const void* fn);
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace smallmind
