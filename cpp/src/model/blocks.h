// The pieces that decoder graphs are made of. Each piece computes all tokens of a step; with more
// than a few tokens it shares the work with the gang. Or it computes a part of the tokens, by one
// thread alone: see in_parts.
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
#include "model/worker_shares.h"

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
  // Of a part of the tokens, which one thread computes; 0: all of them.
  size_t first_token = 0;
  size_t n_of_part = 0;

  bool is_part() const { return n_of_part > 0; }
  size_t n_tokens() const { return is_part() ? n_of_part : ws.tokens.size(); }
};

// Of the layers of a page group.
AttentionShape attention_shape(const Step& step, PageGroup group);

// Up to this many tokens, work on single rows is done by the calling thread: waking helpers costs
// more.
inline constexpr size_t kInlineTokens = 4;

struct TokenRange {
  size_t begin;
  size_t end;
  size_t size() const { return end - begin; }
};

// The tokens whose rows a thread of the gang computes, if it comes in time: the same in all
// regions of a step.
inline TokenRange tokens_of(const Step& step, size_t worker) {
  const size_t n = step.n_tokens(), n_workers = static_cast<size_t>(step.gang.n_threads());
  return {n * worker / n_workers, n * (worker + 1) / n_workers};
}

// fn(token) for every token of the step. Neighbours go to one thread, up to a page of them: what
// they write lies in the same lines.
template <class Fn>
void for_each_token(const Step& step, const Fn& fn) {
  const size_t first = step.first_token, end = first + step.n_tokens(), n = end - first;
  if (step.is_part() || n <= kInlineTokens) {
    for (size_t t = first; t < end; ++t) fn(t);
    return;
  }
  const size_t fair = n / (2 * static_cast<size_t>(step.gang.n_threads()));
  const size_t few = std::clamp(fair, kInlineTokens, size_t{kPageTokens});
  WorkerShares shares(step.gang.n_threads(), [&](size_t worker) {
    return (tokens_of(step, worker).size() + few - 1) / few;
  });
  shares.for_each(step.gang, [&](size_t owner, size_t item) {
    const TokenRange own = tokens_of(step, owner);
    const size_t begin = own.begin + item * few;
    for (size_t t = begin; t < std::min(own.end, begin + few); ++t) fn(t);
  });
}

// fn(part) for each of as many parts of the step's tokens as there are threads, by a thread each;
// fn(step) where parts would be small. A part reads all weights, but its activations pass from
// block to block within one thread's caches, and nobody waits in between.
template <class Fn>
void in_parts(const Step& step, const Fn& fn) {
  const auto n_parts = static_cast<size_t>(step.gang.n_threads());
  if (n_parts == 1 || step.n_tokens() / n_parts < kernels().least_part_tokens) return fn(step);
  WorkerShares shares(step.gang.n_threads(), [](size_t) { return 1; });
  shares.for_each(step.gang, [&](size_t owner, size_t) {
    Step part = step;
    part.first_token = tokens_of(step, owner).begin;
    part.n_of_part = tokens_of(step, owner).size();
    fn(part);
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
