// The benchmarks of one instruction set, the one in use (SMALLMIND_ISA forces it). roofline.py
// reads their names: the parts of a name are divided by slashes.
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>

#include "base/aligned_buffer.h"

namespace smallmind::bench {

// Weights that come from memory: more than four times any last-level cache that is named, and at
// least 256 MiB.
size_t streamed_bytes();
// Weights that the second-level cache holds.
inline constexpr size_t kCachedBytes = size_t{256} << 10;

// Any bytes are weights of a format, but random scales could be huge: one small byte everywhere. In
// large pages where the system gives them, as the engine's weights.
AlignedBuffer<std::byte> make_bytes(size_t n);

// On one thread the time is the processor's, so that a busy machine disturbs little; on two it is
// the clock's.
template <class Fn>
void add(const std::string& name, int n_threads, const Fn& fn) {
  auto* benchmark = benchmark::RegisterBenchmark(name.c_str(), fn)->Threads(n_threads);
  if (n_threads > 1) benchmark->UseRealTime();
}

void count_operations(benchmark::State& state, double operations_an_iteration);

void add_peaks();
void add_products();
void add_attention();
void add_rows();

}  // namespace smallmind::bench
