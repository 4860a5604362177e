// Every packed format's product, and the float GEMM.
#include <vector>

#include "activation_buffer.h"
#include "bench.h"
#include "kernels/kernels.h"
#include "quant/formats.h"
#include "quant/pack.h"

namespace smallmind::bench {
namespace {

// One matrix after another of one shape, as the layers of a model follow each other: their outputs
// share a buffer that stays in the caches.
struct Product {
  gguf::TensorType type;
  size_t n_rows;
  size_t n_columns;
  size_t n_tokens;
  bool fine;  // two planes of inputs
  size_t weight_bytes;
};

void multiply(benchmark::State& state, const Product& p) {
  const size_t panel_bytes = quant::panel_bytes(p.type, p.n_columns),
               matrix_bytes = panel_bytes * ((p.n_rows + 15) / 16),
               n_matrices =
                   p.weight_bytes / static_cast<size_t>(state.threads()) / matrix_bytes + 1;
  const AlignedBuffer<std::byte> panels = make_bytes(n_matrices * matrix_bytes);
  ActivationBuffer buffer(p.n_tokens, p.n_columns);
  const Activations a = buffer.view(p.fine);
  for (size_t i = 0; i < p.n_tokens * p.n_columns; ++i)
    a.values[i] = static_cast<float>(i % 1001) - 500.0f;
  const Kernels& kernel = kernels();
  (p.fine ? kernel.quantize_fine : kernel.quantize)(a, 0, p.n_tokens);
  std::vector<float> out(p.n_tokens * p.n_rows);
  for (auto _ : state) {
    for (size_t m = 0; m < n_matrices; ++m) {
      const PackedMatrix w{p.type, p.n_rows, p.n_columns, panel_bytes,
                           panels.data() + m * matrix_bytes};
      kernel.matmul(w, 0, w.n_panels(), a, p.n_tokens, out.data(), p.n_rows);
    }
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(n_matrices * matrix_bytes));
  // A second plane of inputs is not counted: the same product in more work.
  count_operations(state,
                   2.0 * static_cast<double>(n_matrices * p.n_rows * p.n_columns * p.n_tokens));
}

// matmul/FORMAT/ROWSxCOLUMNS/tokens:T/planes:P/streamed
void add_format(const std::string& name, gguf::TensorType type, size_t n_rows, size_t n_columns,
                bool has_fine) {
  for (const bool fine : {false, true}) {
    if (fine && !has_fine) continue;
    for (const size_t n_tokens : {1, 2, 4, 16, 128}) {
      for (const bool streamed : {true, false}) {
        const Product product{type,     n_rows, n_columns,
                              n_tokens, fine,   streamed ? streamed_bytes() : kCachedBytes};
        const std::string full = "matmul/" + name + '/' + std::to_string(n_rows) + 'x' +
                                 std::to_string(n_columns) + "/tokens:" + std::to_string(n_tokens) +
                                 "/planes:" + (fine ? "2" : "1") +
                                 (streamed ? "/streamed" : "/cached");
        for (const int n_threads : {1, 2})
          add(full, n_threads, [product](benchmark::State& state) { multiply(state, product); });
      }
    }
  }
}

}  // namespace

void add_products() {
  // In the order of how much they matter; shapes as SmolLM2 and Gemma 3 have them (a head is cut:
  // its outputs are written to a slab).
  add_format("q4_1", quant::Q4_1::kType, 1536, 576, true);
  add_format("q4_1", quant::Q4_1::kType, 576, 1536, false);
  add_format("q8_0", quant::Q8_0::kType, 2048, 640, true);
  add_format("q5_0", quant::Q5_0::kType, 2048, 640, false);
  add_format("q6_k", quant::Q6_K::kType, 640, 2048, false);
  add_format("q4_k", quant::Q4_K::kType, 640, 1024, true);
  add_format("q4_0", quant::Q4_0::kType, 1536, 576, false);
  add_format("bf16", quant::BF16::kType, 1536, 576, false);
  add_format("f16", quant::F16::kType, 1536, 576, false);
  add_format("f32", quant::F32::kType, 1536, 576, false);
  // C[n][n] = A[n][n] * B[n][n] in floats, B packed (B81).
  for (const size_t n : {512, 1024}) {
    const Product product{quant::F32::kType, n, n, n, false, 1};
    for (const int n_threads : {1, 2})
      add("gemm/f32/" + std::to_string(n), n_threads,
          [product](benchmark::State& state) { multiply(state, product); });
  }
}

}  // namespace smallmind::bench
