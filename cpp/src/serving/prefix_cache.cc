#include "serving/prefix_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr size_t kSlabBlocks = 64;
constexpr size_t kFirstBuckets = 1024;  // a power of two

constexpr size_t index(PageGroup group) { return static_cast<size_t>(group); }

}  // namespace

uint64_t PrefixCache::hash_ids(uint64_t parent, std::span<const int32_t> ids) {
  uint64_t hash = parent ^ 0x9E37'79B9'7F4A'7C15u;
  for (const int32_t id : ids) {
    hash = (hash ^ static_cast<uint32_t>(id)) * 0xBF58'476D'1CE4'E5B9u;
    hash ^= hash >> 29;
  }
  return hash;
}

PrefixCache::PrefixCache(PagePool& pool, uint64_t free_cache_bytes, Hash hash)
    : pool_(pool), free_cache_bytes_(free_cache_bytes), hash_(hash), buckets_(kFirstBuckets) {}

PrefixCache::~PrefixCache() {
  while (oldest_hold_ != nullptr) release(*oldest_hold_);
  for (const auto& slab : slabs_) {
    for (size_t i = 0; i < kSlabBlocks; ++i) {
      for (const PageGroup group : {PageGroup::kFull, PageGroup::kWindow}) {
        pool_.give_back(group, slab[i].pages[index(group)]);
      }
    }
  }
}

// --- The budget. ---

bool PrefixCache::promise(int64_t n_bytes) noexcept {
  if (n_bytes > 0 &&
      pinned_bytes_ + promised_bytes_ + static_cast<uint64_t>(n_bytes) > pool_.limit()) {
    return false;
  }
  promised_bytes_ += static_cast<uint64_t>(n_bytes);
  return true;
}

// A page for a sequence that was promised one.
std::byte* PrefixCache::take_page(PageGroup group) {
  const uint64_t n_bytes = pool_.page_bytes(group);
  if (n_bytes == 0) return nullptr;
  if (pool_.bytes_in_use() + n_bytes > free_cache_bytes_) {
    // Grows only by what nothing can be evicted for.
    const uint64_t before = pool_.bytes_in_use();
    while (before - pool_.bytes_in_use() < n_bytes && evict_cached()) {
    }
  }
  while (!pool_.has_room(group) && evict_one()) {
  }
  if (!pool_.has_room(group)) {
    throw Error(ErrorKind::kMemoryBudget,
                "the KV budget of " + std::to_string(pool_.limit()) + " bytes is used up; " +
                    std::to_string(pool_.n_in_use()) + " pages are in use");
  }
  return pool_.take(group);
}

// What nobody holds goes first, then the session that was idle for longest.
bool PrefixCache::evict_one() noexcept {
  if (evict_cached()) return true;
  if (oldest_hold_ == nullptr) return false;
  release(*oldest_hold_);
  return true;
}

bool PrefixCache::evict_cached() noexcept {
  KvBlock* const leaf = lru_[index(PageGroup::kFull)].oldest;
  KvBlock* const windowed = lru_[index(PageGroup::kWindow)].oldest;
  if (leaf == nullptr && windowed == nullptr) return false;
  const auto used = [](const KvBlock* block, PageGroup list) {
    return block == nullptr ? UINT64_MAX : block->lru[index(list)].last_used;
  };
  if (used(windowed, PageGroup::kWindow) < used(leaf, PageGroup::kFull)) {
    drop_window_page(windowed);
    ++n_evicted_pages_;
  } else {
    evict_leaf(leaf);
  }
  return true;
}

void PrefixCache::evict_leaf(KvBlock* block) noexcept {
  for (const std::byte* page : block->pages) n_evicted_pages_ += page != nullptr;
  unlink(block);
  destroy(block);
}

// --- The tree. ---

KvBlock* PrefixCache::acquire_root(const std::string& salt) {
  const auto known = roots_.find(salt);
  if (known != roots_.end()) {
    ++known->second->holders[0].n_running;
    return known->second;
  }
  if (free_blocks_ == nullptr) grow();
  KvBlock* const root = free_blocks_;
  roots_.emplace(salt, root);
  free_blocks_ = root->next_sibling;
  *root = KvBlock{};
  root->state = KvBlock::State::kReady;
  root->hash = ++clock_;
  root->holders[0].n_running = 1;
  return root;
}

void PrefixCache::release_root(KvBlock* root) noexcept {
  --root->holders[0].n_running;
  drop_root_if_unused(root);
}

// The default salt's root stays: it would be made again at once.
void PrefixCache::drop_root_if_unused(KvBlock* root) noexcept {
  if (root->holders[0].n_running > 0 || root->first_child != nullptr) return;
  for (auto entry = roots_.begin(); entry != roots_.end(); ++entry) {
    if (entry->second != root) continue;
    if (entry->first.empty()) return;
    roots_.erase(entry);
    break;
  }
  root->next_sibling = free_blocks_;
  free_blocks_ = root;
}

KvBlock* PrefixCache::find(const KvBlock* parent, std::span<const int32_t> ids,
                           KvBlock::State state) const noexcept {
  const uint64_t hash = hash_(parent->hash, ids);
  for (KvBlock* block = buckets_[hash & (buckets_.size() - 1)]; block != nullptr;
       block = block->next_in_bucket) {
    if (block->hash == hash && block->parent == parent && block->state == state &&
        std::equal(ids.begin(), ids.end(), block->ids.begin())) {
      return block;
    }
  }
  return nullptr;
}

KvBlock* PrefixCache::find_ready(const KvBlock* parent,
                                 std::span<const int32_t> ids) const noexcept {
  return find(parent, ids, KvBlock::State::kReady);
}

KvBlock* PrefixCache::find_computing(const KvBlock* parent,
                                     std::span<const int32_t> ids) const noexcept {
  return find(parent, ids, KvBlock::State::kComputing);
}

PrefixCache::Match PrefixCache::longest_beginning(const KvBlock* parent,
                                                  std::span<const int32_t> ids) const noexcept {
  Match best;
  for (KvBlock* child = parent->first_child; child != nullptr; child = child->next_sibling) {
    if (child->state != KvBlock::State::kReady) continue;
    if (window_bytes() > 0 && child->pages[index(PageGroup::kWindow)] == nullptr) {
      continue;
    }
    const size_t n = std::min(ids.size(), static_cast<size_t>(child->n_ids));
    size_t same = 0;
    while (same < n && child->ids[same] == ids[same]) ++same;
    if (static_cast<int64_t>(same) > best.n_ids) best = {child, static_cast<int64_t>(same)};
  }
  return best;
}

// --- Blocks. ---

void PrefixCache::grow() {
  slabs_.push_back(std::make_unique<KvBlock[]>(kSlabBlocks));
  for (size_t i = kSlabBlocks; i-- > 0;) {
    KvBlock& block = slabs_.back()[i];
    block.next_sibling = free_blocks_;
    free_blocks_ = &block;
  }
}

KvBlock* PrefixCache::new_block() {
  if (free_blocks_ == nullptr) grow();
  if (n_blocks_ + 1 > buckets_.size()) {
    std::vector<KvBlock*> old(2 * buckets_.size());
    old.swap(buckets_);
    for (KvBlock* block : old) {
      while (block != nullptr) insert_hashed(std::exchange(block, block->next_in_bucket));
    }
  }
  std::byte* const full = take_page(PageGroup::kFull);
  std::byte* windowed = nullptr;
  try {
    windowed = take_page(PageGroup::kWindow);
  } catch (...) {
    pool_.give_back(PageGroup::kFull, full);
    throw;
  }
  KvBlock* const block = std::exchange(free_blocks_, free_blocks_->next_sibling);
  *block = KvBlock{};
  block->pages = {full, windowed};
  ++n_blocks_;
  hold(block, PageGroup::kFull, Holder::kRunning);
  hold(block, PageGroup::kWindow, Holder::kRunning);
  return block;
}

void PrefixCache::destroy(KvBlock* block) noexcept {
  for (const PageGroup group : {PageGroup::kFull, PageGroup::kWindow}) {
    if (group == PageGroup::kFull && block->holders[0].n_running > 0) {
      pinned_bytes_ -= full_bytes();
    }
    delist(group, block);
    n_cached_pages_[index(group)] -= std::exchange(block->is_cached[index(group)], false);
    pool_.give_back(group, std::exchange(block->pages[index(group)], nullptr));
  }
  block->next_sibling = free_blocks_;
  free_blocks_ = block;
  --n_blocks_;
}

void PrefixCache::link(KvBlock* block, KvBlock* parent) noexcept {
  block->parent = parent;
  block->is_linked = true;
  block->previous_sibling = nullptr;
  block->next_sibling = parent->first_child;
  if (parent->first_child != nullptr) parent->first_child->previous_sibling = block;
  parent->first_child = block;
  rehash(block);
  refresh(parent);
}

void PrefixCache::unlink(KvBlock* block) noexcept {
  remove_hashed(block);
  if (block->previous_sibling != nullptr) {
    block->previous_sibling->next_sibling = block->next_sibling;
  } else {
    block->parent->first_child = block->next_sibling;
  }
  if (block->next_sibling != nullptr) {
    block->next_sibling->previous_sibling = block->previous_sibling;
  }
  block->previous_sibling = block->next_sibling = nullptr;
  block->is_linked = false;
  KvBlock* const parent = std::exchange(block->parent, nullptr);
  refresh(block);
  if (parent->parent == nullptr && parent->n_ids == 0) {
    drop_root_if_unused(parent);
  } else {
    refresh(parent);
  }
}

void PrefixCache::rehash(KvBlock* block) noexcept {
  remove_hashed(block);
  if (block->n_ids == kPageTokens) {
    block->hash = hash_(block->parent->hash, block->ids);
    insert_hashed(block);
  }
  refresh(block);
}

void PrefixCache::insert_hashed(KvBlock* block) noexcept {
  KvBlock*& bucket = buckets_[block->hash & (buckets_.size() - 1)];
  block->next_in_bucket = bucket;
  bucket = block;
  block->is_hashed = true;
}

void PrefixCache::remove_hashed(KvBlock* block) noexcept {
  if (!block->is_hashed) return;
  KvBlock** at = &buckets_[block->hash & (buckets_.size() - 1)];
  while (*at != block) at = &(*at)->next_in_bucket;
  *at = block->next_in_bucket;
  block->next_in_bucket = nullptr;
  block->is_hashed = false;
}

void PrefixCache::give_window_page(KvBlock* from, KvBlock* to) noexcept {
  std::swap(from->pages[index(PageGroup::kWindow)], to->pages[index(PageGroup::kWindow)]);
  refresh(from);
  refresh(to);
}

void PrefixCache::drop_window_page(KvBlock* block) noexcept {
  pool_.give_back(PageGroup::kWindow,
                  std::exchange(block->pages[index(PageGroup::kWindow)], nullptr));
  refresh(block);
}

void PrefixCache::hold(KvBlock* block, PageGroup group, Holder holder) noexcept {
  PageHolders& holders = block->holders[index(group)];
  if (holder == Holder::kIdle) {
    ++holders.n_idle;
  } else if (holders.n_running++ == 0 && group == PageGroup::kFull) {
    pinned_bytes_ += full_bytes();
  }
  refresh(block);
}

void PrefixCache::release(KvBlock* block, PageGroup group, Holder holder) noexcept {
  PageHolders& holders = block->holders[index(group)];
  if (holder == Holder::kIdle) {
    --holders.n_idle;
  } else if (--holders.n_running == 0 && group == PageGroup::kFull) {
    pinned_bytes_ -= full_bytes();
  }
  block->lru[index(group)].last_used = ++clock_;
  refresh(block);
}

// Puts the block into the lists that it belongs to, and out of the others.
void PrefixCache::refresh(KvBlock* block) noexcept {
  if (block->n_ids == 0 && block->pages[0] == nullptr && block->pages[1] == nullptr) return;
  const bool is_leaf = block->is_linked && block->state == KvBlock::State::kReady &&
                       block->first_child == nullptr && !block->holders[0].is_held() &&
                       !block->holders[1].is_held();
  const bool has_free_window = block->is_linked && block->state == KvBlock::State::kReady &&
                               block->pages[index(PageGroup::kWindow)] != nullptr &&
                               !block->holders[1].is_held();
  is_leaf ? enlist(PageGroup::kFull, block) : delist(PageGroup::kFull, block);
  has_free_window ? enlist(PageGroup::kWindow, block) : delist(PageGroup::kWindow, block);
  count_cached(block);
}

void PrefixCache::count_cached(KvBlock* block) noexcept {
  for (size_t group = 0; group < kPageGroups; ++group) {
    const bool is_cached =
        block->is_linked && block->pages[group] != nullptr && !block->holders[group].is_held();
    n_cached_pages_[group] += is_cached - std::exchange(block->is_cached[group], is_cached);
  }
}

uint64_t PrefixCache::cached_bytes() const noexcept {
  uint64_t bytes = 0;
  for (const PageGroup group : {PageGroup::kFull, PageGroup::kWindow})
    bytes += static_cast<uint64_t>(n_cached_pages_[index(group)]) * pool_.page_bytes(group);
  return bytes;
}

// By last use; newcomers mostly belong to the end, and the parent of an evicted leaf to the
// beginning: so from both ends at once.
void PrefixCache::enlist(PageGroup list, KvBlock* block) noexcept {
  const size_t i = index(list);
  LruLink& link = block->lru[i];
  if (link.is_listed) return;
  link.is_listed = true;
  KvBlock* after = lru_[i].newest;  // the block goes behind this one
  KvBlock* before = lru_[i].oldest;
  while (after != nullptr && after->lru[i].last_used > link.last_used) {
    if (before->lru[i].last_used > link.last_used) {
      after = before->lru[i].previous;
      break;
    }
    after = after->lru[i].previous;
    before = before->lru[i].next;
  }
  link.previous = after;
  link.next = after != nullptr ? after->lru[i].next : lru_[i].oldest;
  (link.previous != nullptr ? link.previous->lru[i].next : lru_[i].oldest) = block;
  (link.next != nullptr ? link.next->lru[i].previous : lru_[i].newest) = block;
}

void PrefixCache::delist(PageGroup list, KvBlock* block) noexcept {
  const size_t i = index(list);
  LruLink& link = block->lru[i];
  if (!std::exchange(link.is_listed, false)) return;
  (link.previous != nullptr ? link.previous->lru[i].next : lru_[i].oldest) = link.next;
  (link.next != nullptr ? link.next->lru[i].previous : lru_[i].newest) = link.previous;
  link.previous = link.next = nullptr;
}

// --- Sessions between calls. ---

void PrefixCache::keep(const std::shared_ptr<KvHold>& hold) noexcept {
  unlist(*hold);
  hold->self = hold;
  hold->previous = newest_hold_;
  hold->next = nullptr;
  (newest_hold_ != nullptr ? newest_hold_->next : oldest_hold_) = hold.get();
  newest_hold_ = hold.get();
}

void PrefixCache::unlist(KvHold& hold) noexcept {
  if (!hold.self) return;
  (hold.previous != nullptr ? hold.previous->next : oldest_hold_) = hold.next;
  (hold.next != nullptr ? hold.next->previous : newest_hold_) = hold.previous;
  hold.previous = hold.next = nullptr;
}

// From the end on, so that a leaf is older than its parent.
void PrefixCache::release(KvHold& hold) noexcept {
  const std::shared_ptr<KvHold> alive = hold.self;
  unlist(hold);
  hold.self.reset();
  for (size_t i = hold.path.size(); i-- > 0;) {
    if (i >= hold.first_window) release(hold.path[i], PageGroup::kWindow, Holder::kIdle);
    release(hold.path[i], PageGroup::kFull, Holder::kIdle);
  }
  hold.path.clear();
  hold.first_window = 0;
  if (hold.root != nullptr) release_root(std::exchange(hold.root, nullptr));
}

void PrefixCache::copy(const KvHold& from, const std::shared_ptr<KvHold>& to) {
  if (from.path.empty()) return;
  std::vector<KvBlock*> path = from.path;
  release(*to);
  to->path.swap(path);
  to->first_window = from.first_window;
  to->root = from.root;
  ++to->root->holders[0].n_running;
  for (size_t i = 0; i < to->path.size(); ++i) {
    hold(to->path[i], PageGroup::kFull, Holder::kIdle);
    if (i >= to->first_window) hold(to->path[i], PageGroup::kWindow, Holder::kIdle);
  }
  keep(to);
}

}  // namespace smallmind
