#include "model/blocks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/machine.h"
#include "base/math.h"
#include "model/panel_shares.h"
#include "quant/pack.h"
#include "quant/panel.h"

namespace smallmind {
namespace {

// One product of a region: weights, inputs, and where it goes.
struct Product {
  const PackedMatrix* weights;
  const Activations* inputs;
  float* out;
};

// Some panels of a product, for the tokens of a step.
void multiply(const Step& step, const Product& p, size_t first, size_t n) {
  const TokenRange tokens = step.tokens();
  kernels().matmul(*p.weights, first, n, tokens_from(*p.inputs, tokens.begin), tokens.size(),
                   p.out + tokens.begin * p.weights->n_rows, p.weights->n_rows);
}

// Runs products of equally many columns as one region.
void run_products(const Step& step, std::initializer_list<Product> products) {
  if (step.is_part()) {
    for (const Product& p : products) multiply(step, p, 0, p.weights->n_panels());
    return;
  }
  size_t n_panels = 0;
  for (const Product& p : products) n_panels += p.weights->n_panels();
  PanelShares shares(n_panels, products.begin()->weights->n_columns, step.n_tokens(),
                     step.gang.n_threads());
  shares.for_each(step.gang, [&](size_t piece, size_t n) {
    size_t begin = 0;  // of a product's panels among all
    for (const Product& p : products) {
      const size_t end = begin + p.weights->n_panels();
      const size_t first = std::max(piece, begin), last = std::min(piece + n, end);
      if (first < last) multiply(step, p, first - begin, last - first);
      begin = end;
    }
  });
}

// Of gate and up before they are multiplied: their rows stay in the first two caches.
constexpr size_t kPanelsAtOnce = 8;

void fill_rope(RopeTable& table, size_t token, int64_t position) {
  const size_t n = table.frequencies.size();
  for (size_t i = 0; i < n; ++i) {
    const SinCos angle = sin_cos_portable(static_cast<double>(position) * table.frequencies[i]);
    table.cos[token * n + i] = static_cast<float>(angle.cos);
    table.sin[token * n + i] = static_cast<float>(angle.sin);
  }
}

// frequencies[i] = scale * base^(-2 i / n_rot) / factor[i]
RopeTable make_rope(size_t n_rot, float base, float scale, const std::vector<float>& factors) {
  RopeTable table;
  const double log_base = log_portable(base);
  for (size_t i = 0; i < n_rot / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(n_rot);
    const double factor = factors.empty() ? 1.0 : static_cast<double>(factors[i]);
    table.frequencies.push_back(exp_portable(exponent * log_base) * static_cast<double>(scale) /
                                factor);
  }
  table.cos = AlignedBuffer<float>(kMaxBatchTokens * n_rot / 2);
  table.sin = AlignedBuffer<float>(kMaxBatchTokens * n_rot / 2);
  return table;
}

void norm_row(const Step& step, InputNorm norm, size_t t) {
  const size_t n = step.config.n_embd;
  kernels().rms_norm(step.ws.hidden.data() + t * n, norm.weight.data(), n, step.config.norm_eps,
                     step.ws.normed.row(t));
  if (n % 32 == 0) kernels().quantize(step.ws.normed.view(), t, 1);
  if (norm.has_fine) kernels().quantize_fine(step.ws.normed_fine.view(), t, 1);
}

}  // namespace

ActivationRows::ActivationRows(size_t n_tokens, size_t n_columns)
    : values_(n_tokens * n_columns),
      codes_(n_tokens * n_columns),
      scales_(n_tokens * (n_columns / 32 + 1)),
      scaled_sums_(n_tokens * (n_columns / 32 + 1)),
      minus_half_sums_(n_tokens * 2 * (n_columns / 32 + 1)),
      minus_sums_(n_tokens * (n_columns / 32 + 1)),
      view_{values_.data(),          codes_.data(),      scales_.data(), scaled_sums_.data(),
            minus_half_sums_.data(), minus_sums_.data(), n_columns} {}

ActivationRows::ActivationRows(size_t n_tokens, const ActivationRows& values)
    : ActivationRows(n_tokens, values.view_.n_columns) {
  values_ = {};
  view_.values = values.view_.values;
  const size_t n_columns = view_.n_columns, n_blocks = n_tokens * (n_columns / 32 + 1);
  low_codes_ = AlignedBuffer<int8_t>(n_tokens * n_columns);
  low_minus_half_sums_ = AlignedBuffer<int32_t>(2 * n_blocks);
  low_minus_sums_ = AlignedBuffer<int32_t>(n_blocks);
  view_.low_codes = low_codes_.data();
  view_.low_minus_half_sums = low_minus_half_sums_.data();
  view_.low_minus_sums = low_minus_sums_.data();
}

size_t ActivationRows::bytes() const {
  return values_.bytes() + codes_.bytes() + scales_.bytes() + scaled_sums_.bytes() +
         minus_half_sums_.bytes() + minus_sums_.bytes() + low_codes_.bytes() +
         low_minus_half_sums_.bytes() + low_minus_sums_.bytes();
}

DecoderWorkspace::DecoderWorkspace(const Config& c, const Weights& w,
                                   std::shared_ptr<MemoryLedger> ledger)
    : hidden(kMaxBatchTokens * c.n_embd),
      normed(kMaxBatchTokens, c.n_embd),
      normed_fine(kMaxBatchTokens, normed),
      q(kMaxBatchTokens * c.n_queries()),
      k(kMaxBatchTokens * c.n_keys()),
      v(kMaxBatchTokens * c.n_keys()),
      attended(kMaxBatchTokens, c.n_queries()),
      projected(kMaxBatchTokens * c.n_embd),
      gate(kMaxBatchTokens, c.n_ff),
      up(kMaxBatchTokens * c.n_ff),
      rope(make_rope(c.n_rot, c.rope_base, c.rope_scale, w.rope_factors)),
      attention_plans{{kMaxBatchTokens, kMaxThreads}, {kMaxBatchTokens, kMaxThreads}},
      attention_parts(kAttentionPartFloats),
      head(c.n_vocab, normed) {
  tokens.reserve(kMaxBatchTokens);
  outputs.reserve(kMaxBatchSequences);
  if (c.rope_base_window > 0) rope_window = make_rope(c.n_rot, c.rope_base_window, 1.0f, {});
  const size_t n_bytes = hidden.bytes() + normed.bytes() + normed_fine.bytes() + q.bytes() +
                         k.bytes() + v.bytes() + attended.bytes() + projected.bytes() +
                         gate.bytes() + up.bytes() + rope.cos.bytes() + rope.sin.bytes() +
                         rope_window.cos.bytes() + rope_window.sin.bytes() +
                         attention_parts.bytes() + head.bytes();
  charge_ = MemoryCharge(std::move(ledger), MemoryCategory::kWorkspace, n_bytes);
}

InputNorm attention_norm(const Step& step, size_t i_layer) {
  const auto& layers = step.weights.layers;
  if (i_layer == layers.size()) return {kNoNorm, false};
  // The values decide most of the error of eight-bit inputs: theirs have two planes (numerics.md,
  // "Activations").
  return {layers[i_layer].attention_norm, quant::has_codes(layers[i_layer].v.type)};
}

InputNorm ffn_norm(const LayerWeights& layer) { return {layer.ffn_norm, false}; }

void begin_step(std::span<const SequenceSlice> slices, const Step& step) {
  DecoderWorkspace& ws = step.ws;
  ws.tokens.clear();
  ws.outputs.clear();
  for (const SequenceSlice& slice : slices) {
    const size_t first_output = slice.ids.size() - slice.n_outputs;
    for (size_t i = 0; i < slice.ids.size(); ++i)
      ws.tokens.push_back({slice.ids[i],
                           slice.first_position + static_cast<int64_t>(i),
                           {slice.pages.data(), slice.window_pages.data()},
                           i + 1 == slice.ids.size(),
                           i >= first_output});
    if (slice.n_outputs == 0) continue;
    ws.outputs.push_back(slice);
    ws.outputs.back().ids = slice.ids.last(slice.n_outputs);
    ws.outputs.back().first_position += static_cast<int64_t>(first_output);
  }
  for (const PageGroup group : {PageGroup::kFull, PageGroup::kWindow})
    if (step.kv.page_bytes[static_cast<size_t>(group)] > 0)
      ws.attention_plans[static_cast<size_t>(group)].make(slices, attention_shape(step, group));
  for_each_token(step, [&](size_t t) {
    fill_rope(ws.rope, t, ws.tokens[t].position);
    fill_rope(ws.rope_window, t, ws.tokens[t].position);
  });
}

void embed(const Step& step) {
  const PackedMatrix& m = step.weights.embedding;
  for_each_token(step, [&](size_t t) {
    const auto id = static_cast<size_t>(step.ws.tokens[t].id);
    float* row = step.ws.hidden.data() + t * m.n_columns;
    quant::dequantize_row(m.type, m.panels + id / 16 * m.panel_bytes, id % 16, m.n_columns, row);
    if (step.config.embedding_scale != 1.0f)
      kernels().scale(row, step.config.embedding_scale, m.n_columns);
  });
}

void norm(const Step& step, InputNorm next) {
  for_each_token(step, [&](size_t t) { norm_row(step, next, t); });
}

void add_and_norm(const Step& step, const std::vector<float>& post_norm, InputNorm next) {
  const size_t n = step.config.n_embd;
  for_each_token(step, [&](size_t t) {
    float* projected = step.ws.projected.data() + t * n;
    if (!post_norm.empty())
      kernels().rms_norm(projected, post_norm.data(), n, step.config.norm_eps, projected);
    kernels().add(step.ws.hidden.data() + t * n, projected, n);
    if (!next.weight.empty()) norm_row(step, next, t);
  });
}

void project_qkv(const Step& step, const LayerWeights& layer) {
  DecoderWorkspace& ws = step.ws;
  const Activations& inputs = ws.normed.view();
  run_products(step, {{&layer.q, &inputs, ws.q.data()},
                      {&layer.k, &inputs, ws.k.data()},
                      {&layer.v, &ws.normed_fine.view(), ws.v.data()}});
}

void project_out(const Step& step, const LayerWeights& layer) {
  run_products(step, {{&layer.o, &step.ws.attended.view(), step.ws.projected.data()}});
}

void feed_forward(const Step& step, const LayerWeights& layer) {
  const Config& c = step.config;
  DecoderWorkspace& ws = step.ws;
  const Activations& gate = ws.gate.view();
  const TokenRange tokens = step.tokens();
  const Activations inputs = tokens_from(ws.normed.view(), tokens.begin);
  const bool quantised = quant::has_codes(layer.down.type);
  // The gated product of n panels from `first` on: its codes, and its values from column `at` of
  // the first token's on, `stride` apart from token to token.
  const auto gate_panels = [&](size_t first, size_t n, size_t at, size_t stride) {
    const size_t row = first * quant::kPanelRows;
    const size_t n_rows = std::min(n * quant::kPanelRows, c.n_ff - row);
    float* const values = gate.values + tokens.begin * c.n_ff + at;
    float* const ups = ws.up.data() + tokens.begin * c.n_ff + at;
    const Kernels& kernel = kernels();
    kernel.matmul(panels_from(layer.gate, first), 0, n, inputs, tokens.size(), values, stride);
    kernel.matmul(panels_from(layer.up, first), 0, n, inputs, tokens.size(), ups, stride);
    for (size_t t = 0; t < tokens.size(); ++t) {
      kernel.gated(c.activation, values + t * stride, ups + t * stride, n_rows);
      if (!quantised) continue;
      Activations blocks = columns_from(gate, (tokens.begin + t) * c.n_ff + row);
      blocks.values = values + t * stride;
      kernel.quantize_blocks(blocks, 0, 0, n_rows / quant::kBlockColumns);
    }
  };
  const size_t n_panels = layer.gate.n_panels();
  if (step.is_part()) {
    // Where codes are all that is read, the values of all panels take the same few lines.
    const size_t few = std::min(kPanelsAtOnce * quant::kPanelRows, c.n_ff);
    for (size_t first = 0; first < n_panels; first += kPanelsAtOnce)
      gate_panels(first, std::min(kPanelsAtOnce, n_panels - first),
                  quantised ? 0 : first * quant::kPanelRows, quantised ? few : c.n_ff);
  } else {
    PanelShares shares(n_panels, 2 * c.n_embd, step.n_tokens(), step.gang.n_threads());
    shares.for_each(step.gang, [&](size_t first, size_t n) {
      gate_panels(first, n, first * quant::kPanelRows, c.n_ff);
    });
  }
  run_products(step, {{&layer.down, &gate, ws.projected.data()}});
}

}  // namespace smallmind
