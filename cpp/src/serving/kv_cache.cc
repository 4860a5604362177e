#include "serving/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "smallmind/error.h"

namespace smallmind {
namespace {

using Holder = PrefixCache::Holder;

constexpr size_t kFull = static_cast<size_t>(PageGroup::kFull);
constexpr size_t kWindow = static_cast<size_t>(PageGroup::kWindow);

// Fewer tokens than these are computed anew, rather than copied with the page that they are in.
constexpr int64_t kLeastCopiedIds = 4;

std::span<const int32_t> block_ids(std::span<const int32_t> context, size_t i) {
  return context.subspan(i * kPageTokens, kPageTokens);
}

}  // namespace

KvCache::KvCache(int64_t n_total, std::shared_ptr<KvHold> hold, std::string salt)
    : n_total_(n_total), hold_(std::move(hold)), salt_(std::move(salt)) {
  const auto n = static_cast<size_t>(blocks_for(n_total));
  blocks_.reserve(n);
  for (auto& table : tables_) table.reserve(n);
}

// The first block that a query at `position` sees through the window.
size_t KvCache::first_needed_window(int64_t position) const noexcept {
  if (cache_->window_bytes() == 0) return 0;
  const int64_t first = std::max<int64_t>(0, position + 1 - cache_->geometry().window);
  return static_cast<size_t>(first / kPageTokens);
}

bool KvCache::knows_block(std::span<const int32_t> context, size_t i) const noexcept {
  return (i + 1) * kPageTokens <= context.size();
}

// --- Beginning. ---

// How much of a path of ready blocks can be gone on from: all window pages that the next token sees
// must be there.
size_t KvCache::usable_depth(std::span<KvBlock* const> path) const noexcept {
  if (cache_->window_bytes() == 0) return path.size();
  for (size_t depth = path.size(); depth > 0; --depth) {
    const size_t first = first_needed_window(static_cast<int64_t>(depth) * kPageTokens);
    const auto needed = path.subspan(first, depth - first);
    const bool is_there = std::all_of(needed.begin(), needed.end(), [](const KvBlock* block) {
      return block->pages[kWindow] != nullptr;
    });
    if (is_there) return depth;
  }
  return 0;
}

bool KvCache::start(PrefixCache& cache, std::span<const int32_t> context) {
  cache_ = &cache;
  const int64_t total_blocks = blocks_for(n_total_);
  const int64_t window_pages = std::min(total_blocks, cache_->geometry().max_window_pages());
  const auto window_promise = window_pages * static_cast<int64_t>(cache_->window_bytes());
  if (hold_) {
    root_ = cache_->acquire_root(salt_);
    while (static_cast<int64_t>((n_blocks() + 1) * kPageTokens) <
           static_cast<int64_t>(context.size())) {
      KvBlock* const next = cache_->find_ready(last_block(), block_ids(context, n_blocks()));
      if (next == nullptr) break;
      blocks_.push_back(next);
    }
    blocks_.resize(usable_depth(blocks_));
  }
  // Held first: what is promised after it is beyond what it pins.
  const size_t first = first_needed_window(static_cast<int64_t>(n_blocks()) * kPageTokens);
  for (size_t i = 0; i < n_blocks(); ++i) {
    cache_->hold(blocks_[i], PageGroup::kFull, Holder::kRunning);
    if (i >= first) cache_->hold(blocks_[i], PageGroup::kWindow, Holder::kRunning);
    tables_[kFull].push_back(blocks_[i]->pages[kFull]);
    tables_[kWindow].push_back(i >= first ? blocks_[i]->pages[kWindow] : nullptr);
  }
  first_window_ = first;
  const int64_t n_to_come = total_blocks - static_cast<int64_t>(n_blocks());
  if (!cache_->promise(n_to_come * static_cast<int64_t>(cache_->full_bytes()) + window_promise)) {
    release_path();
    return false;
  }
  n_promised_blocks_ = n_to_come;
  promised_window_bytes_ = window_promise;
  n_tokens_ = n_reused_ = static_cast<int64_t>(n_blocks()) * kPageTokens;
  if (root_ != nullptr) reuse_beginning(context, false);
  if (hold_) cache_->release(*hold_);
  return true;
}

// --- Blocks at the end of the path. ---

void KvCache::push(KvBlock* block) noexcept {
  blocks_.push_back(block);
  tables_[kFull].push_back(block->pages[kFull]);
  tables_[kWindow].push_back(block->pages[kWindow]);
  --n_promised_blocks_;
  cache_->promise(-static_cast<int64_t>(cache_->full_bytes()));
}

void KvCache::add_ready(KvBlock* block) noexcept {
  cache_->hold(block, PageGroup::kFull, Holder::kRunning);
  cache_->hold(block, PageGroup::kWindow, Holder::kRunning);
  push(block);
  n_tokens_ += kPageTokens;
  n_reused_ += kPageTokens;
  slide_window();
}

// A claimed block stands in the tree from now on, for others to wait for.
void KvCache::add_new(std::span<const int32_t> context, bool is_claimed) {
  KvBlock* const parent = last_block();
  KvBlock* const block = cache_->new_block();
  if (is_claimed) {
    std::ranges::copy(block_ids(context, n_blocks()), block->ids.begin());
    block->n_ids = kPageTokens;
    block->state = KvBlock::State::kComputing;
    block->owner = this;
    cache_->link(block, parent);
  }
  push(block);
}

const KvCache* KvCache::advance(std::span<const int32_t> context) {
  if (root_ == nullptr || n_tokens_ != static_cast<int64_t>(n_blocks()) * kPageTokens) {
    return nullptr;  // amid a block
  }
  const auto n_context = static_cast<int64_t>(context.size());
  bool is_claimable = false;
  while (knows_block(context, n_blocks())) {
    const auto ids = block_ids(context, n_blocks());
    KvBlock* const ready = cache_->find_ready(last_block(), ids);
    const bool is_usable =
        ready != nullptr && (ready->pages[kWindow] != nullptr || cache_->window_bytes() == 0);
    if (is_usable && n_tokens_ + kPageTokens < n_context) {
      add_ready(ready);
      continue;
    }
    const KvBlock* const computing = cache_->find_computing(last_block(), ids);
    if (ready == nullptr && computing != nullptr && !computing->owner->is_paused) {
      return computing->owner;
    }
    is_claimable = ready == nullptr && computing == nullptr;
    break;
  }
  reuse_beginning(context, is_claimable);
  if (is_claimable && n_tokens_ == static_cast<int64_t>(n_blocks()) * kPageTokens) {
    add_new(context, true);
  }
  return nullptr;
}

// Begins the next block with a copy of one that begins alike: the end of what the session held, or
// a block that differs further on.
void KvCache::reuse_beginning(std::span<const int32_t> context, bool is_claimable) {
  const auto n_context = static_cast<int64_t>(context.size());
  const int64_t n_wanted = std::min<int64_t>(kPageTokens, n_context - 1 - n_tokens_);
  if (n_wanted <= 0) return;
  const PrefixCache::Match match = cache_->longest_beginning(
      last_block(), context.subspan(static_cast<size_t>(n_tokens_), static_cast<size_t>(n_wanted)));
  if (match.block == nullptr) return;
  const bool is_all = match.n_ids == match.block->n_ids || match.n_ids == n_wanted;
  if (match.n_ids < kLeastCopiedIds && !is_all) return;
  // Held while the new block may evict others to get its pages.
  cache_->hold(match.block, PageGroup::kFull, Holder::kIdle);
  cache_->hold(match.block, PageGroup::kWindow, Holder::kIdle);
  const auto let_go = [&] {
    cache_->release(match.block, PageGroup::kWindow, Holder::kIdle);
    cache_->release(match.block, PageGroup::kFull, Holder::kIdle);
  };
  try {
    add_new(context, is_claimable);
  } catch (const Error&) {
    let_go();
    return;  // the only room is that of the block itself: it is evicted, and computed anew
  } catch (...) {
    let_go();
    throw;
  }
  KvBlock* const block = blocks_.back();
  if (cache_->full_bytes() > 0) {
    std::memcpy(block->pages[kFull], match.block->pages[kFull], cache_->full_bytes());
  }
  if (cache_->window_bytes() > 0) {
    std::memcpy(block->pages[kWindow], match.block->pages[kWindow], cache_->window_bytes());
  }
  if (!is_claimable) {
    std::copy_n(match.block->ids.begin(), match.n_ids, block->ids.begin());
    block->n_ids = static_cast<int32_t>(match.n_ids);
  }
  n_tokens_ += match.n_ids;
  n_reused_ += match.n_ids;
  let_go();
}

void KvCache::prepare(std::span<const int32_t> context, int64_t n) {
  const auto wanted = static_cast<size_t>(blocks_for(n_tokens_ + n));
  while (n_blocks() < wanted) {
    // Below a block of its own nobody else can have claimed one.
    const bool is_below_own = !blocks_.empty() && blocks_.back()->owner == this;
    add_new(context, root_ != nullptr && is_below_own && knows_block(context, n_blocks()));
  }
}

// --- What was computed. ---

void KvCache::append(std::span<const int32_t> context, int64_t n) noexcept {
  const auto first = static_cast<size_t>(n_tokens_) / kPageTokens;
  for (int64_t position = n_tokens_; position < n_tokens_ + n; ++position) {
    KvBlock& block = *blocks_[static_cast<size_t>(position / kPageTokens)];
    if (block.state != KvBlock::State::kPrivate) continue;
    block.ids[static_cast<size_t>(position % kPageTokens)] = context[static_cast<size_t>(position)];
    block.n_ids = static_cast<int32_t>(position % kPageTokens) + 1;
  }
  n_tokens_ += n;
  if (root_ != nullptr) {
    const auto last = static_cast<size_t>(n_tokens_) / kPageTokens;
    for (size_t i = first; i < last; ++i) finish_block(i);
  }
  slide_window();
}

// A block is full: from now on it is anybody's. If the tree has got its like meanwhile, that one is
// gone on with.
void KvCache::finish_block(size_t i) noexcept {
  KvBlock* const block = blocks_[i];
  KvBlock* const parent = i > 0 ? blocks_[i - 1] : root_;
  if (block->state == KvBlock::State::kReady && block->parent == parent) return;
  KvBlock* const twin = cache_->find_ready(parent, block->ids);
  if (twin != nullptr && twin != block) {
    adopt_twin(i, twin);
    return;
  }
  block->state = KvBlock::State::kReady;
  block->owner = nullptr;
  if (block->is_linked && block->parent != parent) cache_->unlink(block);
  if (block->is_linked) {
    cache_->rehash(block);
  } else {
    cache_->link(block, parent);
  }
}

void KvCache::adopt_twin(size_t i, KvBlock* twin) noexcept {
  KvBlock* const block = blocks_[i];
  if (twin->pages[kWindow] == nullptr) cache_->give_window_page(block, twin);
  cache_->hold(twin, PageGroup::kFull, Holder::kRunning);
  if (i >= first_window_) cache_->hold(twin, PageGroup::kWindow, Holder::kRunning);
  if (i + 1 < n_blocks() && blocks_[i + 1]->parent == block) {
    cache_->unlink(blocks_[i + 1]);
    cache_->link(blocks_[i + 1], twin);
  }
  if (block->is_linked) cache_->unlink(block);
  cache_->destroy(block);
  blocks_[i] = twin;
  tables_[kFull][i] = twin->pages[kFull];
  tables_[kWindow][i] = i >= first_window_ ? twin->pages[kWindow] : nullptr;
}

// Lets go of the window pages that no later token sees.
void KvCache::slide_window() noexcept {
  const size_t first = std::min(first_needed_window(n_tokens_), n_blocks());
  for (; first_window_ < first; ++first_window_) {
    KvBlock* const block = blocks_[first_window_];
    tables_[kWindow][first_window_] = nullptr;
    cache_->release(block, PageGroup::kWindow, Holder::kRunning);
    if (!block->is_linked) cache_->drop_window_page(block);
  }
}

// --- The end. ---

void KvCache::stop(bool keep) noexcept {
  if (cache_ == nullptr) return;
  // Nothing yet, if start() was cut short.
  cache_->promise(
      -(n_promised_blocks_ * static_cast<int64_t>(cache_->full_bytes()) + promised_window_bytes_));
  n_promised_blocks_ = promised_window_bytes_ = 0;
  settle_tail();
  if (keep && root_ != nullptr) move_to_hold();
  release_path();
}

// Blocks that were claimed and not computed go; a beginning of a block goes into the tree as such.
void KvCache::settle_tail() noexcept {
  while (n_blocks() > static_cast<size_t>(blocks_for(n_tokens_))) {
    KvBlock* const block = blocks_.back();
    if (block->is_linked) cache_->unlink(block);
    cache_->destroy(block);
    blocks_.pop_back();
  }
  const auto n_ids = static_cast<int32_t>(n_tokens_ % kPageTokens);
  if (n_ids == 0 || root_ == nullptr) return;
  KvBlock* const block = blocks_.back();
  block->n_ids = n_ids;
  block->state = KvBlock::State::kReady;
  block->owner = nullptr;
  if (block->is_linked) {
    cache_->rehash(block);
  } else {
    cache_->link(block, n_blocks() > 1 ? blocks_[n_blocks() - 2] : root_);
  }
}

void KvCache::move_to_hold() noexcept {
  cache_->release(*hold_);
  if (blocks_.empty()) return;
  for (size_t i = 0; i < n_blocks(); ++i) {
    cache_->hold(blocks_[i], PageGroup::kFull, Holder::kIdle);
    if (i >= first_window_) cache_->hold(blocks_[i], PageGroup::kWindow, Holder::kIdle);
  }
  for (size_t i = n_blocks(); i-- > 0;) {
    if (i >= first_window_) cache_->release(blocks_[i], PageGroup::kWindow, Holder::kRunning);
    cache_->release(blocks_[i], PageGroup::kFull, Holder::kRunning);
  }
  hold_->path.swap(blocks_);
  blocks_.clear();
  hold_->first_window = first_window_;
  hold_->root = std::exchange(root_, nullptr);
  cache_->keep(hold_);
}

void KvCache::release_path() noexcept {
  for (size_t i = n_blocks(); i-- > 0;) {
    if (blocks_[i]->state == KvBlock::State::kPrivate) {
      cache_->destroy(blocks_[i]);
      continue;
    }
    if (i >= first_window_) cache_->release(blocks_[i], PageGroup::kWindow, Holder::kRunning);
    cache_->release(blocks_[i], PageGroup::kFull, Holder::kRunning);
  }
  blocks_.clear();
  for (auto& table : tables_) table.clear();
  first_window_ = 0;
  n_tokens_ = 0;
  if (root_ != nullptr) cache_->release_root(std::exchange(root_, nullptr));
  cache_ = nullptr;
}

}  // namespace smallmind
