// How the attention of a step is cut into items: the same for all layers of a page group, but for
// the last layer's outputs, and for each of their kv heads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/model.h"

namespace smallmind {

// Consecutive tokens of one sequence whose queries share the loads of keys and values. In parts:
// one token's queries on some of its pieces (kernels.h), because its context is long and the
// threads would not finish together.
struct AttentionItem {
  size_t first_token = 0;
  size_t n_tokens = 0;
  bool in_parts = false;
  int64_t first_piece = 0;
  int64_t n_pieces = 0;
  size_t cost = 0;
};

// A token's parts in the workspace, head by head; n_parts parts each. None where n_parts is 0.
struct TokenParts {
  size_t first = 0;
  size_t n_parts = 0;
};

// What the plan depends on besides the tokens.
struct AttentionShape {
  size_t queries_of_a_kv_head = 0;
  size_t n_kv_heads = 0;
  int64_t window = 0;  // 0: none
  int n_threads = 0;
  size_t max_parts = 0;  // room for this many parts of one query

  int64_t first_key(int64_t position) const {
    return window > 0 && position >= window ? position + 1 - window : 0;
  }
  int64_t first_piece(int64_t position) const {
    return first_key(position) / static_cast<int64_t>(kPieceKeys);
  }
};

// One thread at a time. Nothing is allocated after construction.
class AttentionPlan {
 public:
  AttentionPlan(size_t max_tokens, int max_threads);
  // REQUIRES: at most max_tokens tokens and max_threads threads.
  void make(std::span<const SequenceSlice> slices, const AttentionShape& shape);
  std::span<const AttentionItem> items() const { return items_; }
  // Those whose first token is among a thread's, most work first. REQUIRES: worker < n_threads.
  std::span<const AttentionItem> items_of(size_t worker) const {
    return items().subspan(ends_[worker], ends_[worker + 1] - ends_[worker]);
  }
  TokenParts parts(size_t token) const { return parts_[token]; }
  bool has_parts() const { return n_parts_ > 0; }

 private:
  // Tokens [first, first + n) of the step, the last of them at last_position.
  struct Run {
    size_t first;
    size_t n;
    int64_t last_position;
  };
  void add_slice(Run slice, const AttentionShape& shape, size_t limit);
  void add_tile(Run tile, const AttentionShape& shape, size_t limit);
  void share(size_t n_tokens, size_t n_workers);

  std::vector<AttentionItem> items_;
  std::vector<size_t> ends_;       // of the items before each thread's, then of all
  std::vector<TokenParts> parts_;  // by token
  size_t n_parts_ = 0;
};

}  // namespace smallmind
