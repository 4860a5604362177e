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
    bool goes_before(const Candidate& other) const noexcept {
      return order != other.order ? order < other.order : left < other.left;
    }
  };

  // A queue, the best first. What is found while a sorted run is taken from its front mostly comes
  // after all of the run: it waits outside, unsorted, for its own run. Only the rest needs a heap.
  class Candidates {
   public:
    void clear() {
      run_.clear();
      at_ = 0;
      early_.clear();
      later_.clear();
    }
    bool empty() const { return at_ == run_.size() && early_.empty() && later_.empty(); }
    void push(const Candidate& candidate) {
      if (run_.empty() || !candidate.goes_before(run_.back())) return later_.push_back(candidate);
      early_.push_back(candidate);
      std::push_heap(early_.begin(), early_.end(), goes_after);
    }
    // REQUIRES: not empty.
    Candidate pop() {
      if (at_ == run_.size() && early_.empty()) next_run();
      if (early_.empty() || (at_ < run_.size() && run_[at_].goes_before(early_.front())))
        return run_[at_++];
      std::pop_heap(early_.begin(), early_.end(), goes_after);
      const Candidate best = early_.back();
      early_.pop_back();
      return best;
    }

   private:
    static bool goes_after(const Candidate& a, const Candidate& b) { return b.goes_before(a); }
    static bool in_order(const Candidate& a, const Candidate& b) { return a.goes_before(b); }
    void next_run() {
      run_.swap(later_);
      later_.clear();
      at_ = 0;
      if (!std::is_sorted(run_.begin(), run_.end(), in_order))
        std::sort(run_.begin(), run_.end(), in_order);
    }

    std::vector<Candidate> run_;
    size_t at_ = 0;
    std::vector<Candidate> early_;  // a heap: what goes before the run's last
    std::vector<Candidate> later_;
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
    candidates_.clear();
    for (uint32_t i = 0; i < n; ++i) links_[i] = {i == 0 ? kNoLink : i - 1, i + 1};
    const auto look = [&](uint32_t left) {
      const uint32_t right = links_[left].next;
      if (right == n) return;
      const uint32_t end = symbols[links_[right].next].begin;
      const Join joined = join(symbols[left].id, symbols[right].id, symbols[left].begin, end);
      if (joined.order != Join::kNever) candidates_.push({joined.order, left, end, joined.id});
    };
    for (uint32_t i = 0; i + 1 < n; ++i) look(i);
    while (!candidates_.empty()) {
      const Candidate best = candidates_.pop();
      Link& left = links_[best.left];
      if (left.next == 0 || left.next == n) continue;
      const uint32_t right = left.next;
      const uint32_t after = links_[right].next;
      if (symbols[after].begin != best.end) continue;
      symbols[best.left].id = best.id;
      links_[right].next = 0;
      left.next = after;
      if (after != n) links_[after].previous = best.left;
      if (left.previous != kNoLink) look(left.previous);
      look(best.left);
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
  Candidates candidates_;
};

}  // namespace smallmind
