// Who holds how much memory: a ledger of live bytes by category with the true peak of their sum,
// and the ways to enter memory into it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <utility>

namespace smallmind {

enum class MemoryCategory : uint8_t { kWeights, kKv, kWorkspace, kTokenizer, kRequests, kOther };
inline constexpr size_t kMemoryCategories = static_cast<size_t>(MemoryCategory::kOther) + 1;

// The account of one engine, shared by whoever holds memory of it. Lock-free: any method, any
// thread, any time. All operations are sequentially consistent.
class MemoryLedger {
 public:
  // Each figure was true at some moment of the call; the categories are read one after the other.
  struct Snapshot {
    std::array<int64_t, kMemoryCategories> live{};  // bytes
    int64_t total_live = 0;
    int64_t peak_live = 0;      // the most that total_live ever was: the peak of the sum
    int64_t n_allocations = 0;  // calls of add() since construction
    int64_t bytes_of(MemoryCategory category) const { return live[static_cast<size_t>(category)]; }
  };

  MemoryLedger() = default;
  MemoryLedger(const MemoryLedger&) = delete;
  MemoryLedger& operator=(const MemoryLedger&) = delete;

  void add(MemoryCategory category, size_t n_bytes) noexcept;
  // REQUIRES: these bytes were added to this category.
  void subtract(MemoryCategory category, size_t n_bytes) noexcept;
  Snapshot snapshot() const noexcept;

 private:
  std::array<std::atomic<int64_t>, kMemoryCategories> live_{};
  std::atomic<int64_t> total_live_{0};
  std::atomic<int64_t> peak_live_{0};
  std::atomic<int64_t> n_allocations_{0};
};

// Memory that no allocator hands out (mappings, a whole buffer), entered while the charge lives.
// Movable; used by one thread at a time. Without a ledger it does nothing.
class MemoryCharge {
 public:
  MemoryCharge() = default;
  MemoryCharge(std::shared_ptr<MemoryLedger> ledger, MemoryCategory category,
               size_t n_bytes) noexcept
      : ledger_(std::move(ledger)), category_(category), n_bytes_(n_bytes) {
    if (ledger_) ledger_->add(category_, n_bytes_);
  }
  ~MemoryCharge() { release(); }
  MemoryCharge(MemoryCharge&& other) noexcept
      : ledger_(std::move(other.ledger_)), category_(other.category_), n_bytes_(other.n_bytes_) {}
  MemoryCharge& operator=(MemoryCharge&& other) noexcept {
    if (this == &other) return *this;
    release();
    ledger_ = std::move(other.ledger_);
    category_ = other.category_;
    n_bytes_ = other.n_bytes_;
    return *this;
  }

 private:
  void release() noexcept {
    if (ledger_) ledger_->subtract(category_, n_bytes_);
    ledger_.reset();
  }

  std::shared_ptr<MemoryLedger> ledger_;
  MemoryCategory category_ = MemoryCategory::kOther;
  size_t n_bytes_ = 0;
};

// The system's allocator, with an entry in a ledger, or in none. What the system refuses
// (std::bad_alloc) is not entered.
void* allocate_tracked(MemoryLedger* ledger, MemoryCategory category, size_t n_bytes,
                       std::align_val_t alignment);
void free_tracked(MemoryLedger* ledger, MemoryCategory category, void* memory, size_t n_bytes,
                  std::align_val_t alignment) noexcept;

// The same as an allocator of the standard library's kind. Containers share the ownership of the
// ledger, so that what outlives its engine is still accounted for. Without a ledger it only
// delegates.
template <class T, MemoryCategory kCategory>
class TrackedAllocator {
 public:
  using value_type = T;
  using propagate_on_container_copy_assignment = std::true_type;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;
  template <class U>
  struct rebind {
    using other = TrackedAllocator<U, kCategory>;
  };

  TrackedAllocator() = default;
  explicit TrackedAllocator(std::shared_ptr<MemoryLedger> ledger) noexcept
      : ledger_(std::move(ledger)) {}
  template <class U>
  TrackedAllocator(const TrackedAllocator<U, kCategory>& other) noexcept
      : ledger_(other.ledger()) {}

  T* allocate(size_t n) {
    if (n > std::numeric_limits<size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
    return static_cast<T*>(
        allocate_tracked(ledger_.get(), kCategory, n * sizeof(T), std::align_val_t{alignof(T)}));
  }
  void deallocate(T* memory, size_t n) noexcept {
    free_tracked(ledger_.get(), kCategory, memory, n * sizeof(T), std::align_val_t{alignof(T)});
  }
  const std::shared_ptr<MemoryLedger>& ledger() const noexcept { return ledger_; }

 private:
  std::shared_ptr<MemoryLedger> ledger_;
};

// Equal allocators may free each other's memory: those of one ledger.
template <class T, class U, MemoryCategory kCategory>
bool operator==(const TrackedAllocator<T, kCategory>& a,
                const TrackedAllocator<U, kCategory>& b) noexcept {
  return a.ledger() == b.ledger();
}

}  // namespace smallmind
