// Counts what a test binary allocates with operator new, and can refuse it. Linking
// allocation_counter.cc into the binary replaces the global operators.
#pragma once

#include <cstdint>

namespace smallmind::testing {

// Calls of operator new in the calling thread, since it started.
int64_t n_allocations_of_this_thread();
int64_t n_bytes_of_this_thread();  // that they asked for

// Calls of operator new in all threads named smallmind-loop or smallmind-gang, since the process
// started. Any thread.
int64_t n_allocations_of_compute_threads();

// The k-th allocation from now (0: the next) throws std::bad_alloc, once; a negative k takes an
// order back that has not come due. Orders for the calling thread and for all compute threads
// together are independent.
void fail_allocation_of_this_thread(int64_t k);
void fail_allocation_of_compute_threads(int64_t k);

}  // namespace smallmind::testing
