// The merging that both families share: neighbours join, the best pair first, until none can.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace smallmind {

// A piece of the text: from `begin` to the next symbol's begin. id is kNone where the vocabulary
// has no such token.
struct Symbol {
  uint32_t begin = 0;
  int32_t id = -1;
};

// What two neighbours become. The lowest order goes first, equal ones from left to right.
struct Join {
  static constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();
  uint32_t order = kNever;
  int32_t id = -1;
};

// Merges the symbols of one piece at a time; keeps its buffers from one piece to the next. One
// thread at a time.
//
// join(left_id, right_id, begin, end) gives the Join of two neighbours that together cover [begin,
// end) of the piece. symbols has one more entry at its end, whose begin is the size of the piece.
// Time is n log n in the symbols.
class Merger {
 public:
  template <class JoinFn>
  void merge(std::vector<Symbol>& symbols, const JoinFn& join) {
    if (symbols.size() <= 2) return;
    if (symbols.size() <= kFew + 1) {
      merge_few(symbols, join);
    } else {
      merge_many(symbols, join);
    }
  }

 private:
  // Up to here looking through all pairs is faster than a heap.
  static constexpr size_t kFew = 32;

  struct Link {
    uint32_t previous;
    uint32_t next;  // 0: this symbol was merged into another
  };
  struct Candidate {
    uint32_t order;
    uint32_t left;
    uint32_t end;  // where the right symbol ended when this was found: tells a stale candidate
    int32_t id;
    // For a heap whose top goes first.
    bool operator<(const Candidate& other) const noexcept {
      return order != other.order ? order > other.order : left > other.left;
    }
  };
  static constexpr uint32_t kNoLink = std::numeric_limits<uint32_t>::max();

  template <class JoinFn>
  static void merge_few(std::vector<Symbol>& symbols, const JoinFn& join) {
    std::array<uint32_t, kFew> orders;
    std::array<int32_t, kFew> ids;
    size_t n_pairs = symbols.size() - 2;
    const auto look = [&](size_t i) {
      const Join joined =
          join(symbols[i].id, symbols[i + 1].id, symbols[i].begin, symbols[i + 2].begin);
      orders[i] = joined.order;
      ids[i] = joined.id;
    };
    for (size_t i = 0; i < n_pairs; ++i) look(i);
    while (n_pairs > 0) {
      size_t best = 0;
      for (size_t i = 1; i < n_pairs; ++i) {
        if (orders[i] < orders[best]) best = i;
      }
      if (orders[best] == Join::kNever) break;
      symbols[best].id = ids[best];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      --n_pairs;
      std::copy(orders.begin() + best + 1, orders.begin() + n_pairs + 1, orders.begin() + best);
      std::copy(ids.begin() + best + 1, ids.begin() + n_pairs + 1, ids.begin() + best);
      if (best > 0) look(best - 1);
      if (best < n_pairs) look(best);
    }
  }

  template <class JoinFn>
  void merge_many(std::vector<Symbol>& symbols, const JoinFn& join) {
    const auto n = static_cast<uint32_t>(symbols.size() - 1);
    links_.resize(n);
    heap_.clear();
    for (uint32_t i = 0; i < n; ++i) links_[i] = {i == 0 ? kNoLink : i - 1, i + 1};
    const auto find = [&](uint32_t left) {
      const uint32_t right = links_[left].next;
      if (right == n) return Candidate{Join::kNever, 0, 0, 0};
      const uint32_t end = symbols[links_[right].next].begin;
      const Join joined = join(symbols[left].id, symbols[right].id, symbols[left].begin, end);
      return Candidate{joined.order, left, end, joined.id};
    };
    for (uint32_t i = 0; i + 1 < n; ++i) {
      const Candidate candidate = find(i);
      if (candidate.order != Join::kNever) heap_.push_back(candidate);
    }
    std::make_heap(heap_.begin(), heap_.end());
    const auto push = [&](uint32_t left) {
      const Candidate candidate = find(left);
      if (candidate.order == Join::kNever) return;
      heap_.push_back(candidate);
      std::push_heap(heap_.begin(), heap_.end());
    };
    while (!heap_.empty()) {
      const Candidate best = heap_.front();
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.pop_back();
      Link& left = links_[best.left];
      if (left.next == 0 || left.next == n) continue;
      const uint32_t right = left.next;
      const uint32_t after = links_[right].next;
      if (symbols[after].begin != best.end) continue;
      symbols[best.left].id = best.id;
      links_[right].next = 0;
      left.next = after;
      if (after != n) links_[after].previous = best.left;
      if (left.previous != kNoLink) push(left.previous);
      push(best.left);
    }
    keep_linked(symbols, n);
  }

  void keep_linked(std::vector<Symbol>& symbols, uint32_t n) {
    size_t n_kept = 0;
    for (uint32_t i = 0; i != n; i = links_[i].next) symbols[n_kept++] = symbols[i];
    symbols[n_kept++] = symbols[n];
    symbols.resize(n_kept);
  }

  std::vector<Link> links_;
  std::vector<Candidate> heap_;
};

}  // namespace smallmind
