// The pieces that decoder graphs are made of. Each piece computes all tokens of a step; with more
// than a few tokens it shares the work with the gang.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/gang.h"
#include "base/tracking_allocator.h"
#include "model/attention_plan.h"
#include "model/config.h"
#include "model/kv_layout.h"
#include "model/model.h"
#include "model/weights.h"

namespace smallmind {

// Inputs of products, owned.
class ActivationRows {
 public:
  ActivationRows() = default;
  ActivationRows(size_t n_tokens, size_t n_columns);
  // Two planes of codes over the values of `values`, which must outlive this.
  ActivationRows(size_t n_tokens, const ActivationRows& values);
  const Activations& view() const { return view_; }
  float* row(size_t token) const { return view_.values + token * view_.n_columns; }
  size_t bytes() const;

 private:
  AlignedBuffer<float> values_;
  AlignedBuffer<int8_t> codes_;
  AlignedBuffer<float> scales_;
  AlignedBuffer<float> scaled_sums_;
  AlignedBuffer<int32_t> minus_half_sums_;
  AlignedBuffer<int32_t> minus_sums_;
  AlignedBuffer<int8_t> low_codes_;
  AlignedBuffer<int32_t> low_minus_half_sums_;
  AlignedBuffer<int32_t> low_minus_sums_;
  Activations view_;
};

// cos and sin of each token's rotary angles for one base.
struct RopeTable {
  std::vector<double> frequencies;  // [n_rot / 2], radians a position; empty: unused
  AlignedBuffer<float> cos;         // [token][n_rot / 2]
  AlignedBuffer<float> sin;
};

// One token of a step.
struct StepToken {
  int32_t id;
  int64_t position;
  std::byte* const* pages[kPageGroups];  // of its sequence
  bool last_of_slice;
};

inline constexpr size_t kAttentionPartFloats = 1 << 20;

// Of OutputHead::first_ranks.
struct HeadWorkspace {
  HeadWorkspace(size_t n_vocab, size_t n_embd);
  size_t bytes() const;

  AlignedBuffer<float> maxima;          // [row][panels, then blocks of 16 panels]
  AlignedBuffer<float> scales;          // [row][n_embd / 32], of the codes that enter
  AlignedBuffer<double> lower_squares;  // [n_embd / 32], of the lower planes of all rows
  AlignedBuffer<bool> is_fine;          // [n_embd / 32]
};

// The buffers of a step. Nothing is allocated after construction.
class DecoderWorkspace : public Workspace {
 public:
  // The ledger may be null.
  DecoderWorkspace(const Config& config, const Weights& weights,
                   std::shared_ptr<MemoryLedger> ledger);

  std::vector<StepToken> tokens;  // at most kMaxBatchTokens
  AlignedBuffer<float> hidden;    // [token][n_embd], the residual stream
  ActivationRows normed;          // [token][n_embd]
  ActivationRows normed_fine;  // the same with two planes of codes, for the values and the logits
  AlignedBuffer<float> q;      // [token][n_queries]
  AlignedBuffer<float> k;      // [token][n_keys]
  AlignedBuffer<float> v;      // [token][n_keys]
  ActivationRows attended;     // [token][n_queries]
  AlignedBuffer<float> projected;  // [token][n_embd]
  ActivationRows gate;             // [token][n_ff], then the gated product
  AlignedBuffer<float> up;         // [token][n_ff]
  RopeTable rope;
  RopeTable rope_window;
  AttentionPlan attention_plans[kPageGroups];
  AlignedBuffer<float> attention_parts;  // of tokens whose context several threads share
  HeadWorkspace head;

 private:
  MemoryCharge charge_;
};

// What every block works on.
struct Step {
  const Config& config;
  const Weights& weights;
  const KvLayout& kv;
  DecoderWorkspace& ws;
  Gang& gang;
  size_t n_tokens() const { return ws.tokens.size(); }
};

// Of the layers of a page group.
AttentionShape attention_shape(const Step& step, PageGroup group);

// Up to this many tokens, work on single rows is done by the calling thread: waking helpers costs
// more.
inline constexpr size_t kInlineTokens = 4;

// fn(token) for every token of the step. Neighbours go to one thread, up to a page of them: what
// they write lies in the same lines.
template <class Fn>
void for_each_token(const Step& step, const Fn& fn) {
  const size_t n = step.n_tokens();
  if (n <= kInlineTokens) {
    for (size_t t = 0; t < n; ++t) fn(t);
    return;
  }
  const size_t fair = n / (2 * static_cast<size_t>(step.gang.n_threads()));
  const size_t few = std::clamp(fair, kInlineTokens, size_t{kPageTokens});
  step.gang.for_each((n + few - 1) / few, [&](size_t item, int) {
    for (size_t t = item * few; t < std::min(n, (item + 1) * few); ++t) fn(t);
  });
}

inline const std::vector<float> kNoNorm;

// A norm, and whether the products after it want its output in two planes of codes, too.
struct InputNorm {
  const std::vector<float>& weight;
  bool has_fine;
};
// What a layer's first half begins with; an empty weight behind the last layer.
InputNorm attention_norm(const Step& step, size_t i_layer);
InputNorm ffn_norm(const LayerWeights& layer);

void begin_step(std::span<const SequenceSlice> slices,
                const Step& step);  // lists the tokens, fills the rotary tables
void embed(const Step& step);       // hidden = embedding row * embedding_scale
// normed = rms_norm(hidden), and normed_fine where next.has_fine, ready for products.
void norm(const Step& step, InputNorm next);
// hidden += post_norm(projected) (post_norm empty: projected itself), then norm(). An empty
// weight leaves out the norm.
void add_and_norm(const Step& step, const std::vector<float>& post_norm, InputNorm next);
// REQUIRES: the norm before it was attention_norm() of this layer.
void project_qkv(const Step& step, const LayerWeights& layer);
// Norms of single heads where the layer has them, rotation, rounding to bfloat16, keys and values
// into the pages.
void rotate_and_store(const Step& step, const LayerWeights& layer, size_t i_layer);
void attention(const Step& step, size_t i_layer);  // attended = softmax(q k) v, ready for products
void project_out(const Step& step, const LayerWeights& layer);  // projected = o attended
void feed_forward(const Step& step,
                  const LayerWeights& layer);  // projected = down (act(gate normed) * up normed)

}  // namespace smallmind
