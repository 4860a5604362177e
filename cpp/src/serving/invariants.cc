#include "serving/invariants.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace smallmind {

// Sees the private parts of both classes. Counts anew what they keep count of, and compares.
class CacheInspector {
 public:
  explicit CacheInspector(const PrefixCache& cache) : cache_(cache) {}

  std::string find_violation(std::span<const KvCache* const> running) {
    for (const KvCache* kv : running) count_running(*kv);
    for (const KvHold* hold = cache_.oldest_hold_; hold != nullptr; hold = hold->next) {
      count_idle(*hold);
    }
    for (const auto& [salt, root] : cache_.roots_) check_children(*root);
    for (const KvCache* kv : running) check_path(*kv);
    check_sums();
    return std::move(violation_);
  }

 private:
  using Counts = std::array<PageHolders, kPageGroups>;

  void expect(bool holds, const char* what) {
    if (!holds && violation_.empty()) violation_ = what;
  }

  void count_running(const KvCache& kv) {
    for (size_t i = 0; i < kv.blocks_.size(); ++i) {
      ++counts_[kv.blocks_[i]][0].n_running;
      if (i >= kv.first_window_) ++counts_[kv.blocks_[i]][1].n_running;
    }
    promised_ += static_cast<uint64_t>(kv.n_promised_blocks_) * cache_.full_bytes();
    const int64_t n_blocks = static_cast<int64_t>(kv.blocks_.size()) + kv.n_promised_blocks_;
    promised_ += static_cast<uint64_t>(std::min(n_blocks, cache_.geometry().max_window_pages())) *
                 cache_.window_bytes();
    expect(kv.n_promised_blocks_ >= 0, "a sequence has more blocks than it was promised");
  }

  void count_idle(const KvHold& hold) {
    for (size_t i = 0; i < hold.path.size(); ++i) {
      ++counts_[hold.path[i]][0].n_idle;
      if (i >= hold.first_window) ++counts_[hold.path[i]][1].n_idle;
    }
  }

  // Without recursion: a context may be thousands of blocks deep.
  void check_children(const KvBlock& root) {
    std::vector<const KvBlock*> open = {&root};
    while (!open.empty()) {
      const KvBlock* const parent = open.back();
      open.pop_back();
      for (const KvBlock* child = parent->first_child; child != nullptr;
           child = child->next_sibling) {
        expect(child->parent == parent && child->is_linked, "a child does not know its parent");
        expect(&root == parent || parent->n_ids == kPageTokens, "a short block has a child");
        check_block(*child);
        open.push_back(child);
      }
    }
  }

  void check_block(const KvBlock& block) {
    expect(seen_.insert(&block).second, "a block stands in the tree twice");
    const Counts& counts = counts_[&block];
    for (size_t group = 0; group < kPageGroups; ++group) {
      expect(block.holders[group].n_running == counts[group].n_running &&
                 block.holders[group].n_idle == counts[group].n_idle,
             "a page's holders are miscounted");
      if (cache_.pool_.geometry().page_bytes[group] == 0) continue;
      if (block.pages[group] == nullptr) {
        expect(group == 1 && !counts[group].is_held(), "a page that somebody holds is missing");
        continue;
      }
      count_page(block.pages[group], group, !counts[group].is_held());
    }
    if (counts[0].n_running > 0) pinned_ += cache_.full_bytes();
    const bool is_ready = block.state == KvBlock::State::kReady;
    expect(is_ready || block.state == KvBlock::State::kComputing, "a private block is linked");
    expect(is_ready == (block.owner == nullptr), "a computing block has no owner");
    expect(block.is_hashed == (block.n_ids == kPageTokens),
           "a block is not where it is looked for");
    const bool is_leaf =
        is_ready && block.first_child == nullptr && !counts[0].is_held() && !counts[1].is_held();
    expect(block.lru[0].is_listed == is_leaf, "a leaf is not listed for eviction, or wrongly");
  }

  void count_page(const std::byte* page, size_t group, bool is_cached) {
    expect(pages_.insert(page).second, "two blocks have one page");
    ++n_pages_;
    n_cached_ += is_cached;
    bytes_ += cache_.pool_.geometry().page_bytes[group];
  }

  void check_path(const KvCache& kv) {
    for (size_t i = 0; i < kv.blocks_.size(); ++i) {
      const KvBlock& block = *kv.blocks_[i];
      if (kv.root_ != nullptr && block.is_linked) {
        expect(block.parent == (i > 0 ? kv.blocks_[i - 1] : kv.root_), "a path leaves the tree");
      }
      for (size_t group = 0; group < kPageGroups; ++group) {
        const bool is_shown = group == 0 || i >= kv.first_window_;
        expect(kv.tables_[group][i] == (is_shown ? block.pages[group] : nullptr),
               "a page table shows another page");
      }
      if (block.is_linked) continue;
      expect(block.state == KvBlock::State::kPrivate, "a shared block is in no tree");
      pinned_ += cache_.full_bytes();
      for (size_t group = 0; group < kPageGroups; ++group) {
        if (block.pages[group] != nullptr) count_page(block.pages[group], group, false);
      }
    }
  }

  void check_sums() {
    expect(n_pages_ == cache_.pool_.n_in_use(), "a page is lost, or counted twice");
    expect(bytes_ == cache_.pool_.bytes_in_use(), "the bytes of the pages are miscounted");
    expect(n_cached_ == cache_.n_cached_pages(), "the pages that nobody holds are miscounted");
    expect(pinned_ == cache_.pinned_bytes_, "the pinned bytes are miscounted");
    expect(promised_ == cache_.promised_bytes_, "the promised bytes are miscounted");
    expect(pinned_ + promised_ <= cache_.pool_.limit(), "more is promised than the budget has");
    expect(bytes_ <= cache_.pool_.limit(), "the budget is exceeded");
  }

  const PrefixCache& cache_;
  std::string violation_;
  std::unordered_map<const KvBlock*, Counts> counts_;
  std::unordered_set<const KvBlock*> seen_;
  std::unordered_set<const std::byte*> pages_;
  int64_t n_pages_ = 0;
  int64_t n_cached_ = 0;
  uint64_t bytes_ = 0;
  uint64_t pinned_ = 0;
  uint64_t promised_ = 0;
};

std::string find_violation(const PrefixCache& cache, std::span<const KvCache* const> running) {
  return CacheInspector(cache).find_violation(running);
}

}  // namespace smallmind
