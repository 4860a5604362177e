// The kernels of the instruction set in use (SMALLMIND_ISA forces one), one thread, beside what the
// memory gives. Weights come from a buffer far larger than the last-level cache, or from one that
// the second-level cache holds.
#include <benchmark/benchmark.h>

#include <cstring>
#include <string>
#include <vector>

#include "activation_buffer.h"
#include "base/aligned_buffer.h"
#include "kernels/kernels.h"
#include "quant/formats.h"
#include "quant/pack.h"

namespace smallmind {
namespace {

constexpr size_t kStreamedBytes = size_t{256} << 20;
constexpr size_t kCachedBytes = size_t{256} << 10;

// Any bytes are weights of a format, but random scales could be huge: one small byte everywhere.
AlignedBuffer<std::byte> make_bytes(size_t n) {
  AlignedBuffer<std::byte> bytes(n);
  std::memset(bytes.data(), 0x11, n);
  return bytes;
}

void read_memory(benchmark::State& state) {
  const AlignedBuffer<std::byte> bytes = make_bytes(kStreamedBytes);
  for (auto _ : state) {
    uint64_t sums[8] = {};
    for (size_t at = 0; at < kStreamedBytes; at += sizeof sums) {
      uint64_t line[8];
      std::memcpy(line, bytes.data() + at, sizeof line);
      for (size_t i = 0; i < 8; ++i) sums[i] += line[i];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kStreamedBytes));
}

struct Product {
  gguf::TensorType type;
  size_t n_columns;
  size_t n_tokens;
  bool fine;
  size_t weight_bytes;
};

void multiply(benchmark::State& state, const Product& p) {
  const size_t panel_bytes = quant::panel_bytes(p.type, p.n_columns);
  const size_t n_panels = p.weight_bytes / panel_bytes, n_rows = n_panels * 16;
  const AlignedBuffer<std::byte> panels = make_bytes(n_panels * panel_bytes);
  const PackedMatrix w{p.type, n_rows, p.n_columns, panel_bytes, panels.data()};
  ActivationBuffer buffer(p.n_tokens, p.n_columns);
  const Activations a = buffer.view(p.fine);
  for (size_t i = 0; i < p.n_tokens * p.n_columns; ++i)
    a.values[i] = static_cast<float>(i % 1001) - 500.0f;
  const Kernels& kernel = kernels();
  (p.fine ? kernel.quantize_fine : kernel.quantize)(a, 0, p.n_tokens);
  std::vector<float> out(p.n_tokens * n_rows);
  for (auto _ : state) kernel.matmul(w, 0, n_panels, a, p.n_tokens, out.data(), n_rows);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(n_panels * panel_bytes));
  // A second plane of inputs is not counted: the same product in more work.
  const double operations = 2.0 * static_cast<double>(n_rows * p.n_columns * p.n_tokens);
  state.counters["op/s"] = benchmark::Counter(operations * static_cast<double>(state.iterations()),
                                              benchmark::Counter::kIsRate);
}

void quantize(benchmark::State& state, bool fine) {
  constexpr size_t kTokens = 16, kColumns = 1536;
  ActivationBuffer buffer(kTokens, kColumns);
  const Activations a = buffer.view(fine);
  for (size_t i = 0; i < kTokens * kColumns; ++i) a.values[i] = static_cast<float>(i % 1001);
  for (auto _ : state) (fine ? kernels().quantize_fine : kernels().quantize)(a, 0, kTokens);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kTokens * kColumns));
}

void highest(benchmark::State& state) {
  const std::vector<float> row(static_cast<size_t>(state.range(0)), 1.0f);
  for (auto _ : state) benchmark::DoNotOptimize(kernels().highest(row.data(), row.size()));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void register_products(const std::string& name, gguf::TensorType type, size_t n_columns,
                       bool has_fine) {
  for (const size_t n_tokens : {1, 4, 16, 128}) {
    for (const bool fine : {false, true}) {
      if (fine && !has_fine) continue;
      for (const size_t bytes : {kCachedBytes, kStreamedBytes}) {
        const Product product{type, n_columns, n_tokens, fine, bytes};
        const std::string full = "matmul/" + name + "/tokens:" + std::to_string(n_tokens) +
                                 (fine ? "/planes:2" : "/planes:1") +
                                 (bytes == kCachedBytes ? "/cached" : "/streamed");
        benchmark::RegisterBenchmark(
            full.c_str(), [product](benchmark::State& state) { multiply(state, product); });
      }
    }
  }
}

void register_all() {
  benchmark::RegisterBenchmark("read_memory", read_memory);
  // In the order of how much they matter; columns as the models have them.
  register_products("q4_1", quant::Q4_1::kType, 576, true);
  register_products("q8_0", quant::Q8_0::kType, 640, true);
  register_products("q5_0", quant::Q5_0::kType, 640, true);
  register_products("q6_k", quant::Q6_K::kType, 2048, true);
  register_products("q4_k", quant::Q4_K::kType, 1024, true);
  register_products("q4_0", quant::Q4_0::kType, 576, true);
  register_products("f16", quant::F16::kType, 576, false);
  benchmark::RegisterBenchmark("quantize/planes:1",
                               [](benchmark::State& state) { quantize(state, false); });
  benchmark::RegisterBenchmark("quantize/planes:2",
                               [](benchmark::State& state) { quantize(state, true); });
  benchmark::RegisterBenchmark("highest", highest)->Arg(49'152)->Arg(262'144);
  benchmark::AddCustomContext("isa", kernels().name);
}

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  smallmind::register_all();
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
