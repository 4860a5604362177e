#include "allocation_counter.h"

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

namespace smallmind::testing {
namespace {

constexpr int64_t kNever = -1;

// Constant-initialised: allocations happen before any constructor of ours has run.
std::atomic<int64_t> n_compute{0};
std::atomic<int64_t> compute_fails_in{kNever};
thread_local int64_t n_here = 0;
thread_local int64_t n_bytes_here = 0;
thread_local int64_t here_fails_in = kNever;
thread_local bool is_compute = false;

// Threads are named in their first line, so a name that was found stays.
bool is_compute_thread() {
  if (is_compute) return true;
  char name[16] = {};
  if (pthread_getname_np(pthread_self(), name, sizeof name) != 0) return false;
  is_compute = std::strcmp(name, "smallmind-loop") == 0 || std::strcmp(name, "smallmind-gang") == 0;
  return is_compute;
}

// True when the order comes due with this allocation.
bool comes_due(std::atomic<int64_t>& order) {
  int64_t left = order.load();
  while (left >= 0) {
    if (order.compare_exchange_weak(left, left - 1)) return left == 0;  // 0 becomes kNever
  }
  return false;
}

void* allocate(size_t n, size_t alignment) {
  ++n_here;
  n_bytes_here += static_cast<int64_t>(n);
  bool fails = here_fails_in >= 0 && here_fails_in-- == 0;
  if (is_compute_thread()) {
    n_compute.fetch_add(1);
    fails = comes_due(compute_fails_in) || fails;
  }
  if (fails) return nullptr;
  if (n == 0) n = 1;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(n);
  return std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment);
}

void* allocate_or_throw(size_t n, size_t alignment) {
  void* const memory = allocate(n, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

int64_t n_allocations_of_this_thread() { return n_here; }
int64_t n_bytes_of_this_thread() { return n_bytes_here; }
int64_t n_allocations_of_compute_threads() { return n_compute.load(); }
void fail_allocation_of_this_thread(int64_t k) { here_fails_in = k; }
void fail_allocation_of_compute_threads(int64_t k) { compute_fails_in.store(k); }

}  // namespace smallmind::testing

using smallmind::testing::allocate;
using smallmind::testing::allocate_or_throw;

// Every form, because a sanitizer's own would not fit with ours.
void* operator new(size_t n) { return allocate_or_throw(n, 1); }
void* operator new[](size_t n) { return allocate_or_throw(n, 1); }
void* operator new(size_t n, const std::nothrow_t&) noexcept { return allocate(n, 1); }
void* operator new[](size_t n, const std::nothrow_t&) noexcept { return allocate(n, 1); }
void* operator new(size_t n, std::align_val_t a) {
  return allocate_or_throw(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, std::align_val_t a) {
  return allocate_or_throw(n, static_cast<size_t>(a));
}
void* operator new(size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, static_cast<size_t>(a));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }
