// What the machine can do: reads from memory, integer dots, fused multiply-adds, pair dots.
#include "bench.h"
#include "kernels/kernels.h"
#include "peaks.h"

namespace smallmind::bench {
namespace {

// A thread reads its share of a buffer that no cache holds.
void read_memory(benchmark::State& state, decltype(Peaks::read) read) {
  const size_t n = streamed_bytes() / static_cast<size_t>(state.threads());
  const AlignedBuffer<std::byte> bytes = make_bytes(n);
  float sink[16];
  for (auto _ : state) {
    read(bytes.data(), n, sink);
    benchmark::DoNotOptimize(sink);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(n));
}

void compute(benchmark::State& state, uint64_t (*peak)(size_t, float*)) {
  constexpr size_t kBlocks = 10'000;
  uint64_t operations = 0;
  float sink[16];
  for (auto _ : state) {
    operations = peak(kBlocks, sink);
    benchmark::DoNotOptimize(sink);
  }
  count_operations(state, static_cast<double>(operations * kBlocks));
}

}  // namespace

void add_peaks() {
  const Peaks* peaks = peaks_of(kernels().name);
  if (peaks == nullptr) return;
  for (const int n_threads : {1, 2}) {
    for (const auto& [name, read] :
         {std::pair{"peak/read", peaks->read}, std::pair{"peak/read_ahead", peaks->read_ahead}})
      add(name, n_threads, [read = read](benchmark::State& state) { read_memory(state, read); });
    add("peak/int8", n_threads, [peaks](benchmark::State& state) { compute(state, peaks->int8); });
    add("peak/fp32", n_threads, [peaks](benchmark::State& state) { compute(state, peaks->fp32); });
    add("peak/bf16", n_threads, [peaks](benchmark::State& state) { compute(state, peaks->bf16); });
  }
}

}  // namespace smallmind::bench
