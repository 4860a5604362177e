// How often each token stands among the last repeat_last_n positions of a context.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace smallmind {

// Open addressing with linear probing: counting a token that is known, or that fits the reserved
// size, allocates nothing. One thread at a time.
class TokenCounts {
 public:
  // Room for n different tokens; more make it grow.
  explicit TokenCounts(size_t n) : slots_(std::bit_ceil(2 * n + 2)) {}

  void add(int32_t id) {
    if (2 * (n_used_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[find(id)];
    n_used_ += slot.count == 0;
    slot.id = id;
    ++slot.count;
  }
  // REQUIRES: it was added and not yet removed.
  void remove(int32_t id) {
    const size_t at = find(id);
    if (--slots_[at].count == 0) close_gap(at);
  }
  // fn(id, count) for every token that is there.
  template <class Fn>
  void for_each(const Fn& fn) const {
    for (const Slot& slot : slots_) {
      if (slot.count > 0) fn(slot.id, slot.count);
    }
  }

 private:
  struct Slot {
    int32_t id = 0;
    int64_t count = 0;  // 0: free
  };

  size_t mask() const { return slots_.size() - 1; }
  size_t home(int32_t id) const { return (static_cast<uint32_t>(id) * 0x9E37'79B9u) & mask(); }
  size_t find(int32_t id) const {
    size_t at = home(id);
    while (slots_[at].count > 0 && slots_[at].id != id) at = (at + 1) & mask();
    return at;
  }
  // Moves what was displaced by the slot that became free back towards its home.
  void close_gap(size_t gap) {
    --n_used_;
    for (size_t at = (gap + 1) & mask(); slots_[at].count > 0; at = (at + 1) & mask()) {
      const size_t distance_from_home = (at - home(slots_[at].id)) & mask();
      if (distance_from_home < ((at - gap) & mask())) continue;
      slots_[gap] = std::exchange(slots_[at], {});
      gap = at;
    }
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.count > 0) slots_[find(slot.id)] = slot;
    }
  }

  std::vector<Slot> slots_;  // a power of two, at most half of them used
  size_t n_used_ = 0;
};

}  // namespace smallmind
