#include "model/attention_plan.h"

#include <algorithm>
#include <limits>

#include "model/worker_shares.h"

namespace smallmind {
namespace {

constexpr size_t kLoadCost = 3;  // of a piece's keys and values, in queries on it
// With this many items a thread the last ones to end are short.
constexpr size_t kItemsOfAThread = 3;
constexpr size_t kLeastPieces = 4;  // of an item in parts

constexpr size_t divided_up(size_t a, size_t b) { return a / b + (a % b != 0); }

int64_t n_pieces(const AttentionShape& shape, int64_t position) {
  return position / static_cast<int64_t>(kPieceKeys) - shape.first_piece(position) + 1;
}

// Of n tokens up to one at `position`, for one kv head.
size_t cost_of(const AttentionShape& shape, size_t n, int64_t position) {
  return (n * shape.queries_of_a_kv_head + kLoadCost) *
         static_cast<size_t>(n_pieces(shape, position));
}

int64_t last_position(const SequenceSlice& slice) {
  return slice.first_position + static_cast<int64_t>(slice.ids.size()) - 1;
}

// What no item should cost more than.
size_t find_limit(std::span<const SequenceSlice> slices, const AttentionShape& shape) {
  if (shape.n_threads == 1) return std::numeric_limits<size_t>::max();
  size_t total = 0;
  for (const SequenceSlice& slice : slices)
    total += cost_of(shape, slice.ids.size(), last_position(slice)) * shape.n_kv_heads;
  return std::max<size_t>(1, total / (kItemsOfAThread * static_cast<size_t>(shape.n_threads)));
}

}  // namespace

AttentionPlan::AttentionPlan(size_t max_tokens, int max_threads) : parts_(max_tokens) {
  // Every token alone, and those more that cutting the dearest ones gives.
  items_.reserve(max_tokens + 2 * kItemsOfAThread * static_cast<size_t>(max_threads));
  ends_.reserve(static_cast<size_t>(max_threads) + 1);
}

void AttentionPlan::make(std::span<const SequenceSlice> slices, const AttentionShape& shape) {
  items_.clear();
  n_parts_ = 0;
  const size_t limit = find_limit(slices, shape);
  size_t first = 0;
  for (const SequenceSlice& slice : slices) {
    add_slice({first, slice.ids.size(), last_position(slice)}, shape, limit);
    first += slice.ids.size();
  }
  share(first, static_cast<size_t>(shape.n_threads));
}

void AttentionPlan::share(size_t n_tokens, size_t n_workers) {
  const Ownership tokens{n_tokens, n_workers};
  const auto owner_of = [&](const AttentionItem& item) {
    return tokens.owner_of(item.first_token);
  };
  std::sort(items_.begin(), items_.end(), [&](const AttentionItem& a, const AttentionItem& b) {
    if (owner_of(a) != owner_of(b)) return owner_of(a) < owner_of(b);
    if (a.cost != b.cost) return a.cost > b.cost;
    if (a.first_token != b.first_token) return a.first_token < b.first_token;
    return a.first_piece < b.first_piece;
  });
  ends_.assign(1, 0);
  for (size_t worker = 0, end = 0; worker < n_workers; ++worker) {
    while (end < items_.size() && owner_of(items_[end]) == worker) ++end;
    ends_.push_back(end);
  }
}

// Tiles as large as the kernel takes, or smaller where one would cost more than the limit.
void AttentionPlan::add_slice(Run slice, const AttentionShape& shape, size_t limit) {
  const size_t largest = std::max<size_t>(1, kMaxTileQueries / shape.queries_of_a_kv_head);
  const size_t wanted = divided_up(cost_of(shape, slice.n, slice.last_position), limit);
  const size_t n_tiles = std::min(slice.n, std::max(wanted, divided_up(slice.n, largest)));
  const int64_t before = slice.last_position - static_cast<int64_t>(slice.n);
  for (size_t tile = 0; tile < n_tiles; ++tile) {
    const size_t begin = slice.n * tile / n_tiles, end = slice.n * (tile + 1) / n_tiles;
    add_tile({slice.first + begin, end - begin, before + static_cast<int64_t>(end)}, shape, limit);
  }
}

void AttentionPlan::add_tile(Run tile, const AttentionShape& shape, size_t limit) {
  const size_t cost = cost_of(shape, tile.n, tile.last_position);
  const int64_t pieces = n_pieces(shape, tile.last_position);
  const auto n = static_cast<size_t>(pieces);
  const size_t n_parts = n * shape.n_kv_heads * shape.queries_of_a_kv_head;  // of all queries
  const size_t n_cuts = std::min(divided_up(cost, limit), n / kLeastPieces);
  for (size_t t = tile.first; t < tile.first + tile.n; ++t) parts_[t] = {};
  if (tile.n > 1 || n_cuts < 2 || n_parts > shape.max_parts - n_parts_) {
    items_.push_back({tile.first, tile.n, false, 0, 0, cost});
    return;
  }
  parts_[tile.first] = {n_parts_, n};
  n_parts_ += n_parts;
  for (size_t cut = 0; cut < n_cuts; ++cut) {
    const size_t begin = n * cut / n_cuts, end = n * (cut + 1) / n_cuts;
    items_.push_back({tile.first, 1, true,
                      shape.first_piece(tile.last_position) + static_cast<int64_t>(begin),
                      static_cast<int64_t>(end - begin), cost / n_cuts});
  }
}

}  // namespace smallmind
