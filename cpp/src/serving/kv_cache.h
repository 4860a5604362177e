// The keys and values of one running sequence: a path of blocks, the last of them unfinished.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "serving/prefix_cache.h"

namespace smallmind {

// Made by any thread, then the loop thread's: start(), then advance(), prepare() and append() in
// turns, then stop(). Between prepare() and stop() nothing can run out of budget.
class KvCache {
 public:
  // For a sequence of at most n_total tokens. `hold`: what its session kept from the last call and
  // will keep of this one; null: nothing is shared or kept. All memory is reserved here.
  KvCache(int64_t n_total, std::shared_ptr<KvHold> hold, std::string salt);
  ~KvCache() { stop(false); }
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // Takes what the tree has of the context (never its last token: its logits are wanted) and has
  // the rest promised. False, and nothing has changed, while the budget is otherwise promised. The
  // cache must outlive the run.
  bool start(PrefixCache& cache, std::span<const int32_t> context);
  // Takes what has become ready since, and claims the next block for this sequence. Returns the
  // sequence that computes that block already: there is nothing to do but wait for it. Throws
  // Error(kMemoryBudget) when the system refuses a page.
  const KvCache* advance(std::span<const int32_t> context);
  // Pages for the positions [size(), size() + n). Throws like advance(); size() stays.
  void prepare(std::span<const int32_t> context, int64_t n);
  // The model has written them. REQUIRES: prepared.
  void append(std::span<const int32_t> context, int64_t n) noexcept;
  // Ends the run. With `keep`, the session's hold takes the path over. Idempotent.
  void stop(bool keep) noexcept;

  int64_t size() const noexcept { return n_tokens_; }      // tokens whose KV is there
  int64_t n_reused() const noexcept { return n_reused_; }  // of them, those not computed here
  bool is_started() const noexcept { return cache_ != nullptr; }
  std::span<std::byte* const> pages(PageGroup group) const noexcept {
    return tables_[static_cast<size_t>(group)];
  }
  // The engine's notes. Others do not wait for a sequence that waits itself, for its reader.
  bool is_paused = false;
  int32_t index = -1;  // among the running

 private:
  friend class CacheInspector;

  size_t n_blocks() const noexcept { return blocks_.size(); }
  KvBlock* last_block() const noexcept { return blocks_.empty() ? root_ : blocks_.back(); }
  size_t first_needed_window(int64_t position) const noexcept;
  size_t usable_depth(std::span<KvBlock* const> path) const noexcept;
  void push(KvBlock* block) noexcept;
  void add_ready(KvBlock* block) noexcept;
  void add_new(std::span<const int32_t> context, bool is_claimed);
  bool knows_block(std::span<const int32_t> context, size_t i) const noexcept;
  void reuse_beginning(std::span<const int32_t> context, bool is_claimable);
  void finish_block(size_t i) noexcept;
  void adopt_twin(size_t i, KvBlock* twin) noexcept;
  void slide_window() noexcept;
  void settle_tail() noexcept;
  void move_to_hold() noexcept;
  void release_path() noexcept;

  // Constant after construction.
  const int64_t n_total_;
  const std::shared_ptr<KvHold> hold_;
  const std::string salt_;

  PrefixCache* cache_ = nullptr;  // while it runs
  KvBlock* root_ = nullptr;       // null: private blocks only
  std::vector<KvBlock*> blocks_;
  std::vector<std::byte*> tables_[kPageGroups];
  size_t first_window_ = 0;  // blocks from here on hold their window pages
  int64_t n_tokens_ = 0;
  int64_t n_reused_ = 0;
  int64_t n_promised_blocks_ = 0;  // full pages yet to be taken
  int64_t promised_window_bytes_ = 0;
};

}  // namespace smallmind
