#include "base/tracking_allocator.h"

namespace smallmind {

// total_live_ is one counter, so the values that its additions return are all the values that the
// sum takes: the largest of them is the true peak, whatever the threads do meanwhile.
void MemoryLedger::add(MemoryCategory category, size_t n_bytes) noexcept {
  const auto n = static_cast<int64_t>(n_bytes);
  live_[static_cast<size_t>(category)].fetch_add(n);
  const int64_t total = total_live_.fetch_add(n) + n;
  int64_t peak = peak_live_.load();
  while (peak < total && !peak_live_.compare_exchange_weak(peak, total)) {
  }
  n_allocations_.fetch_add(1);
}

void MemoryLedger::subtract(MemoryCategory category, size_t n_bytes) noexcept {
  const auto n = static_cast<int64_t>(n_bytes);
  live_[static_cast<size_t>(category)].fetch_sub(n);
  total_live_.fetch_sub(n);
}

MemoryLedger::Snapshot MemoryLedger::snapshot() const noexcept {
  Snapshot snapshot;
  for (size_t i = 0; i < kMemoryCategories; ++i) snapshot.live[i] = live_[i].load();
  snapshot.total_live = total_live_.load();
  snapshot.peak_live = peak_live_.load();
  snapshot.n_allocations = n_allocations_.load();
  return snapshot;
}

void* allocate_tracked(MemoryLedger* ledger, MemoryCategory category, size_t n_bytes,
                       std::align_val_t alignment) {
  void* const memory = ::operator new(n_bytes, alignment);
  if (ledger != nullptr) ledger->add(category, n_bytes);
  return memory;
}

void free_tracked(MemoryLedger* ledger, MemoryCategory category, void* memory, size_t n_bytes,
                  std::align_val_t alignment) noexcept {
  ::operator delete(memory, alignment);
  if (ledger != nullptr) ledger->subtract(category, n_bytes);
}

}  // namespace smallmind
