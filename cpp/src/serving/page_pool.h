// Where KV pages come from and go to.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smallmind {

// One thread at a time (the engine loop's). A page comes zeroed, 64-byte aligned, straight from the
// system, and goes straight back: what a cancelled request held is free memory at once. Pages are
// hundreds of kilobytes, so a system call for each costs nothing beside filling it.
class PagePool {
 public:
  explicit PagePool(size_t page_bytes) : page_bytes_(page_bytes) {}
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Throws Error(kMemoryBudget) when the system refuses.
  std::byte* take();
  void give_back(std::byte* page) noexcept;
  int64_t n_in_use() const noexcept { return n_in_use_; }

 private:
  const size_t page_bytes_;
  int64_t n_in_use_ = 0;
};

}  // namespace smallmind
