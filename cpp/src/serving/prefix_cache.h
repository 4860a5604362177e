// The KV pages of an engine: a tree of immutable blocks that sequences with equal beginnings share,
// and the byte budget that all of them live in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "serving/kv_block.h"
#include "serving/page_pool.h"

namespace smallmind {

// What a session keeps of its KV between two calls: a path in the tree. It is a cache: it may be
// taken away whenever room is needed. Made by any thread, touched by the loop's only.
struct KvHold {
  std::vector<KvBlock*> path;  // from the first block on; empty: nothing is held
  size_t first_window = 0;     // from this block on the window pages are held, too
  KvBlock* root = nullptr;
  KvHold* previous = nullptr;  // in the list by last use, the oldest first
  KvHold* next = nullptr;
  std::shared_ptr<KvHold> self;  // while it is listed: its session may have gone
};

// One thread at a time (the engine loop's).
//
// The budget: bytes pinned by running sequences plus bytes promised to them never exceed the pool's
// limit, so a running sequence always gets its next page: what nobody holds is evicted first, the
// least recently used first, then what idle sessions hold. Beyond
// `free_cache_bytes`, pages that nobody holds are evicted before the pool grows.
class PrefixCache {
 public:
  using Hash = uint64_t (*)(uint64_t parent, std::span<const int32_t> ids);
  static uint64_t hash_ids(uint64_t parent, std::span<const int32_t> ids);

  // `free_cache_bytes`: how far pages that nobody holds may make the pool grow. `hash` may be as
  // bad as it likes: ids are compared.
  PrefixCache(PagePool& pool, uint64_t free_cache_bytes, Hash hash = hash_ids);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // --- The budget. ---
  const KvGeometry& geometry() const noexcept { return pool_.geometry(); }
  // Promises n_bytes more (or fewer, when negative) to a running sequence; false, and nothing
  // changes, if the budget cannot keep it.
  bool promise(int64_t n_bytes) noexcept;
  size_t full_bytes() const noexcept { return pool_.page_bytes(PageGroup::kFull); }
  size_t window_bytes() const noexcept { return pool_.page_bytes(PageGroup::kWindow); }

  // --- The tree. ---
  // The root of a salt, made if there is none; held until released.
  KvBlock* acquire_root(const std::string& salt);
  void release_root(KvBlock* root) noexcept;
  // A full, ready child with these 32 ids; null if there is none.
  KvBlock* find_ready(const KvBlock* parent, std::span<const int32_t> ids) const noexcept;
  KvBlock* find_computing(const KvBlock* parent, std::span<const int32_t> ids) const noexcept;
  struct Match {
    KvBlock* block = nullptr;
    int64_t n_ids = 0;
  };
  // The ready child that begins with the most of `ids`, and how many; it has all its pages.
  Match longest_beginning(const KvBlock* parent, std::span<const int32_t> ids) const noexcept;

  // A private block, held by a running sequence, with its pages. Throws Error(kMemoryBudget) when
  // the system refuses, or when what could be evicted for them is held for a moment.
  KvBlock* new_block();
  // Into the tree, in the state that it has; computing and full ready blocks can be found.
  void link(KvBlock* block, KvBlock* parent) noexcept;
  void unlink(KvBlock* block) noexcept;
  // REQUIRES: not linked, no children.
  void destroy(KvBlock* block) noexcept;
  void give_window_page(KvBlock* from, KvBlock* to) noexcept;
  void drop_window_page(KvBlock* block) noexcept;
  // A block's state, owner or number of ids has changed while it was linked.
  void rehash(KvBlock* block) noexcept;

  enum class Holder : uint8_t { kRunning, kIdle };
  void hold(KvBlock* block, PageGroup group, Holder holder) noexcept;
  void release(KvBlock* block, PageGroup group, Holder holder) noexcept;

  // --- Sessions between calls. ---
  void keep(const std::shared_ptr<KvHold>& hold) noexcept;  // as the most recently used
  void release(KvHold& hold) noexcept;
  void copy(const KvHold& from, const std::shared_ptr<KvHold>& to);

  // --- Figures. ---
  int64_t n_held_pages() const noexcept { return pool_.n_in_use() - n_cached_pages(); }
  int64_t n_cached_pages() const noexcept { return n_cached_pages_[0] + n_cached_pages_[1]; }
  uint64_t bytes() const noexcept { return pool_.bytes(); }
  uint64_t held_bytes() const noexcept { return pool_.bytes_in_use() - cached_bytes(); }
  uint64_t cached_bytes() const noexcept;
  int64_t n_evicted_pages() const noexcept { return n_evicted_pages_; }

 private:
  friend class CacheInspector;  // invariants.h

  struct LruList {
    KvBlock* oldest = nullptr;
    KvBlock* newest = nullptr;
  };

  std::byte* take_page(PageGroup group);
  bool evict_one() noexcept;
  bool evict_cached() noexcept;
  void evict_leaf(KvBlock* block) noexcept;
  void refresh(KvBlock* block) noexcept;
  void count_cached(KvBlock* block) noexcept;
  void enlist(PageGroup list, KvBlock* block) noexcept;
  void delist(PageGroup list, KvBlock* block) noexcept;
  void insert_hashed(KvBlock* block) noexcept;
  void remove_hashed(KvBlock* block) noexcept;
  KvBlock* find(const KvBlock* parent, std::span<const int32_t> ids,
                KvBlock::State state) const noexcept;
  void grow();
  void unlist(KvHold& hold) noexcept;
  void drop_root_if_unused(KvBlock* root) noexcept;

  PagePool& pool_;
  const uint64_t free_cache_bytes_;
  const Hash hash_;
  uint64_t clock_ = 0;

  uint64_t pinned_bytes_ = 0;    // full pages of blocks that running sequences hold
  uint64_t promised_bytes_ = 0;  // full pages yet to come, and all window pages, of running ones
  std::array<int64_t, kPageGroups> n_cached_pages_{};
  int64_t n_evicted_pages_ = 0;

  std::vector<std::unique_ptr<KvBlock[]>> slabs_;
  KvBlock* free_blocks_ = nullptr;  // through next_sibling
  size_t n_blocks_ = 0;
  std::vector<KvBlock*> buckets_;
  std::unordered_map<std::string, KvBlock*> roots_;
  LruList lru_[kPageGroups];
  KvHold* oldest_hold_ = nullptr;
  KvHold* newest_hold_ = nullptr;
};

}  // namespace smallmind
