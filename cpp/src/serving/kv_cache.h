// The keys and values of one sequence: its pages, and the token ids they were computed from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "serving/page_pool.h"

namespace smallmind {

// One thread at a time (the engine loop's). The pool must outlive it. Pages cover exactly the held
// ids and what was reserved beyond them.
class KvCache {
 public:
  explicit KvCache(PagePool& pool) : pool_(pool) {}
  ~KvCache() { truncate(0); }
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int64_t size() const noexcept { return static_cast<int64_t>(ids_.size()); }
  std::span<std::byte* const> pages() const noexcept { return pages_; }

  // How many ids from the start are the same here and in `context`.
  int64_t common_prefix(std::span<const int32_t> context) const noexcept;
  // Keeps the first n ids and the pages that they need. REQUIRES: 0 <= n <= size().
  void truncate(int64_t n) noexcept;
  // Pages for n_more tokens beyond the held ones. Throws Error(kMemoryBudget); what was held stays.
  void reserve(int64_t n_more);
  // The model has written these positions. REQUIRES: reserved. Does not throw after reserve().
  void append(std::span<const int32_t> ids) noexcept;

 private:
  PagePool& pool_;
  std::vector<std::byte*> pages_;
  std::vector<int32_t> ids_;
};

}  // namespace smallmind
