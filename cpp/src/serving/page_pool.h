// Where KV pages come from and go to.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/tracking_allocator.h"
#include "model/model.h"

namespace smallmind {

// Blocks of 32 positions that n tokens need.
constexpr int64_t blocks_for(int64_t n_tokens) {
  return (n_tokens + kPageTokens - 1) / kPageTokens;
}

// What the KV of a model takes.
struct KvGeometry {
  std::array<size_t, kPageGroups> page_bytes{};  // 0: the model has no layers of that group
  int64_t window = 0;                            // keys that a layer of the second group sees

  // Window pages that one running sequence may need at a time: those that a step's tokens see, and
  // those that they are written to.
  int64_t max_window_pages() const noexcept;
  // The most bytes that a sequence of n tokens needs at a time.
  uint64_t bytes_for(int64_t n_tokens) const noexcept;
};

// One thread at a time (the engine loop's). Pages are 64-byte aligned and hold whatever they held
// before: readers never look at what was not written (hazard A-34; a build with
// SMALLMIND_CHECK_INVARIANTS fills a recycled page with NaN). A few pages that came back are kept
// at hand, so that a steady engine asks the system for nothing; the others go back to the system at
// once.
class PagePool {
 public:
  // The pages in use and those kept at hand never hold more than `limit` bytes.
  // What it takes from the system is entered in the ledger, which may be null.
  PagePool(const KvGeometry& geometry, uint64_t limit,
           std::shared_ptr<MemoryLedger> ledger = nullptr);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Null for a group whose pages have no bytes. REQUIRES: has_room(group). Throws
  // Error(kMemoryBudget) when the system refuses.
  std::byte* take(PageGroup group);
  void give_back(PageGroup group, std::byte* page) noexcept;  // null: nothing happens

  bool has_room(PageGroup group) const noexcept {
    return bytes_in_use_ + page_bytes(group) <= limit_;
  }
  size_t page_bytes(PageGroup group) const noexcept {
    return geometry_.page_bytes[static_cast<size_t>(group)];
  }
  const KvGeometry& geometry() const noexcept { return geometry_; }
  uint64_t limit() const noexcept { return limit_; }
  uint64_t bytes_in_use() const noexcept { return bytes_in_use_; }
  uint64_t bytes() const noexcept { return bytes_in_use_ + spare_bytes_; }  // of the system's
  int64_t n_in_use() const noexcept { return n_in_use_; }

 private:
  void unmap(PageGroup group, std::byte* page) noexcept;
  void unmap_spare(PageGroup group) noexcept;

  const KvGeometry geometry_;
  const uint64_t limit_;
  const std::shared_ptr<MemoryLedger> ledger_;
  uint64_t bytes_in_use_ = 0;
  int64_t n_in_use_ = 0;
  uint64_t spare_bytes_ = 0;
  std::array<std::vector<std::byte*>, kPageGroups> spare_;  // reserved: giving back cannot fail
};

}  // namespace smallmind
