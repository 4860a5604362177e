// What a step does beside products and attention: quantising, norms, activations, and the choice of
// a token.
#include <vector>

#include "activation_buffer.h"
#include "bench.h"
#include "kernels/kernels.h"
#include "sampling/sampler.h"

namespace smallmind::bench {
namespace {

constexpr size_t kTokens = 16, kColumns = 1536;

std::vector<float> ramp(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i * 37 % 1001) * 0.01f - 5.0f;
  return values;
}

void quantize(benchmark::State& state, bool fine) {
  ActivationBuffer buffer(kTokens, kColumns);
  const Activations a = buffer.view(fine);
  for (size_t i = 0; i < kTokens * kColumns; ++i) a.values[i] = static_cast<float>(i % 1001);
  for (auto _ : state) (fine ? kernels().quantize_fine : kernels().quantize)(a, 0, kTokens);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kTokens * kColumns));
}

// fn(rows) for kTokens rows of kColumns floats, anew from the same values.
template <class Fn>
void over_rows(benchmark::State& state, const Fn& fn) {
  const std::vector<float> values = ramp(kColumns);
  std::vector<float> rows(kColumns);
  for (auto _ : state) {
    std::copy(values.begin(), values.end(), rows.begin());
    fn(rows.data(), values.data());
    benchmark::DoNotOptimize(rows.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kColumns));
}

void highest(benchmark::State& state, size_t n_vocab) {
  const std::vector<float> row = ramp(n_vocab);
  for (auto _ : state) benchmark::DoNotOptimize(kernels().highest(row.data(), row.size()));
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(n_vocab));
}

// The whole choice with the default parameters; copying the row is part of it.
void choose(benchmark::State& state, size_t n_vocab, float temperature) {
  const std::vector<float> logits = ramp(n_vocab);
  std::vector<float> row(n_vocab);
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = 40;
  params.top_p = 0.95f;
  params.min_p = 0.05f;
  Sampler sampler(params, 1, {});
  SamplerScratch scratch{Candidates(n_vocab)};
  const std::vector<int32_t> context{1, 2, 3};
  for (auto _ : state) {
    std::copy(logits.begin(), logits.end(), row.begin());
    benchmark::DoNotOptimize(sampler.choose(row, context, scratch));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(n_vocab));
}

}  // namespace

void add_rows() {
  for (const bool fine : {false, true})
    add(std::string("rows/quantize/planes:") + (fine ? "2" : "1"), 1,
        [fine](benchmark::State& state) { quantize(state, fine); });
  add("rows/rms_norm", 1, [](benchmark::State& state) {
    over_rows(state, [](float* row, const float* weight) {
      kernels().rms_norm(row, weight, kColumns, 1e-5f, row);
    });
  });
  for (const auto& [name, activation] :
       {std::pair{"silu", Activation::kSilu}, std::pair{"gelu_tanh", Activation::kGeluTanh}}) {
    add(std::string("rows/gated/") + name, 1, [activation = activation](benchmark::State& state) {
      over_rows(state, [activation](float* row, const float* up) {
        kernels().gated(activation, row, up, kColumns);
      });
    });
  }
  for (const size_t n_vocab : {49'152, 262'144}) {
    const std::string vocab = '/' + std::to_string(n_vocab);
    add("sample/highest" + vocab, 1,
        [n_vocab](benchmark::State& state) { highest(state, n_vocab); });
    add("sample/greedy" + vocab, 1,
        [n_vocab](benchmark::State& state) { choose(state, n_vocab, 0); });
    add("sample/top_k_top_p" + vocab, 1,
        [n_vocab](benchmark::State& state) { choose(state, n_vocab, 0.8f); });
  }
}

}  // namespace smallmind::bench
