#include "serving/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr uint64_t kMaxSpareBytes = 8 << 20;
constexpr size_t kMaxSparePages = 64;
constexpr bool kPoisonsPages = SMALLMIND_CHECKS_INVARIANTS;
constexpr int kNaNByte = 0xFF;  // four of them are a float NaN, two a bfloat16 NaN

constexpr size_t index(PageGroup group) { return static_cast<size_t>(group); }

}  // namespace

int64_t KvGeometry::max_window_pages() const noexcept {
  return page_bytes[index(PageGroup::kWindow)] == 0 ? 0
                                                    : blocks_for(window - 1 + kMaxBatchTokens) + 1;
}

uint64_t KvGeometry::bytes_for(int64_t n_tokens) const noexcept {
  const int64_t n_blocks = blocks_for(n_tokens);
  const int64_t n_window = std::min(n_blocks, max_window_pages());
  return static_cast<uint64_t>(n_blocks) * page_bytes[index(PageGroup::kFull)] +
         static_cast<uint64_t>(n_window) * page_bytes[index(PageGroup::kWindow)];
}

PagePool::PagePool(const KvGeometry& geometry, uint64_t limit, std::shared_ptr<MemoryLedger> ledger)
    : geometry_(geometry), limit_(limit), ledger_(std::move(ledger)) {
  for (std::vector<std::byte*>& spare : spare_) spare.reserve(kMaxSparePages);
}

PagePool::~PagePool() {
  for (const PageGroup group : {PageGroup::kFull, PageGroup::kWindow}) {
    while (!spare_[index(group)].empty()) unmap_spare(group);
  }
}

void PagePool::unmap(PageGroup group, std::byte* page) noexcept {
  munmap(page, page_bytes(group));
  if (ledger_) ledger_->subtract(MemoryCategory::kKv, page_bytes(group));
}

void PagePool::unmap_spare(PageGroup group) noexcept {
  std::vector<std::byte*>& spare = spare_[index(group)];
  unmap(group, spare.back());
  spare.pop_back();
  spare_bytes_ -= page_bytes(group);
}

std::byte* PagePool::take(PageGroup group) {
  const size_t n_bytes = page_bytes(group);
  if (n_bytes == 0) return nullptr;
  std::vector<std::byte*>& spare = spare_[index(group)];
  std::byte* page = nullptr;
  if (!spare.empty()) {
    page = spare.back();
    spare.pop_back();
    spare_bytes_ -= n_bytes;
  } else {
    const PageGroup other = group == PageGroup::kFull ? PageGroup::kWindow : PageGroup::kFull;
    while (bytes_in_use_ + spare_bytes_ + n_bytes > limit_ && !spare_[index(other)].empty()) {
      unmap_spare(other);
    }
    void* mapped =
        mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      throw Error(ErrorKind::kMemoryBudget, "the system refused " + std::to_string(n_bytes) +
                                                " bytes for a KV page; " +
                                                std::to_string(n_in_use_) + " pages are in use");
    }
    page = static_cast<std::byte*>(mapped);
    if (ledger_) ledger_->add(MemoryCategory::kKv, n_bytes);
  }
  ++n_in_use_;
  bytes_in_use_ += n_bytes;
  return page;
}

void PagePool::give_back(PageGroup group, std::byte* page) noexcept {
  if (page == nullptr) return;
  const size_t n_bytes = page_bytes(group);
  --n_in_use_;
  bytes_in_use_ -= n_bytes;
  std::vector<std::byte*>& spare = spare_[index(group)];
  const bool is_kept = spare.size() < kMaxSparePages && spare_bytes_ + n_bytes <= kMaxSpareBytes;
  if (!is_kept) {
    unmap(group, page);
    return;
  }
  if (kPoisonsPages) std::memset(page, kNaNByte, n_bytes);
  spare.push_back(page);
  spare_bytes_ += n_bytes;
}

}  // namespace smallmind
