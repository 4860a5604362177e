#include "bench.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"

namespace smallmind::bench {

size_t streamed_bytes() {
  size_t largest_cache = 0;
  for (const auto& cache : benchmark::CPUInfo::Get().caches)
    largest_cache = std::max(largest_cache, static_cast<size_t>(cache.size));
  return std::max(size_t{256} << 20, 4 * largest_cache);
}

AlignedBuffer<std::byte> make_bytes(size_t n) {
  AlignedBuffer<std::byte> bytes(n);
  constexpr uintptr_t kPage = 4096;
  const auto from = reinterpret_cast<uintptr_t>(bytes.data() + kPage - 1) & ~(kPage - 1);
  const auto to = reinterpret_cast<uintptr_t>(bytes.data() + n) & ~(kPage - 1);
  if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
  std::memset(bytes.data(), 0x11, n);
  return bytes;
}

void count_operations(benchmark::State& state, double operations_an_iteration) {
  state.counters["op/s"] =
      benchmark::Counter(operations_an_iteration * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}

}  // namespace smallmind::bench

int main(int argc, char** argv) {
  namespace bench = smallmind::bench;
  benchmark::Initialize(&argc, argv);
  bench::add_peaks();
  bench::add_products();
  bench::add_attention();
  bench::add_rows();
  benchmark::AddCustomContext("isa", smallmind::kernels().name);
  benchmark::AddCustomContext("streamed_bytes", std::to_string(bench::streamed_bytes()));
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
