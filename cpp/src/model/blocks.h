// The pieces that decoder graphs are made of. Each piece computes all tokens of a step; with more
// than a few tokens it shares the work with the gang. Those of in_parts may be given a part of the
// tokens instead, and compute it on one thread.
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
  bool is_output;
};

inline constexpr size_t kAttentionPartFloats = 1 << 20;

// Of OutputHead::first_ranks.
struct HeadWorkspace {
  // For inputs as long as normed's, which must outlive this.
  HeadWorkspace(size_t n_vocab, const ActivationRows& normed);
  size_t bytes() const;

  AlignedBuffer<float> maxima;             // [row][panels, then blocks of 16 panels]
  AlignedBuffer<float> scales;             // [row][n_embd / 32], of the codes that enter
  ActivationRows halves;                   // [row][n_embd], halved codes; empty: not wanted here
  AlignedBuffer<double> squares_left_out;  // [n_embd / 32], by the upper planes of all rows
  AlignedBuffer<bool> is_fine;             // [n_embd / 32]
};

// The buffers of a step. Nothing is allocated after construction.
class DecoderWorkspace : public Workspace {
 public:
  // The ledger may be null.
  DecoderWorkspace(const Config& config, const Weights& weights,
                   std::shared_ptr<MemoryLedger> ledger);

  std::vector<StepToken> tokens;       // at most kMaxBatchTokens
  std::vector<SequenceSlice> outputs;  // of the slices of this step, those that have some
  AlignedBuffer<float> hidden;         // [token][n_embd], the residual stream
  ActivationRows normed;               // [token][n_embd]
  ActivationRows normed_fine;  // the same with two planes of codes, for the values and the logits
  AlignedBuffer<float> q;      // [token][n_queries]
  AlignedBuffer<float> k;      // [token][n_keys]
  AlignedBuffer<float> v;      // [token][n_keys]
  ActivationRows attended;     // [token][n_queries]
  AlignedBuffer<float> projected;  // [token][n_embd]
  ActivationRows gate;             // [token][n_ff], then the gated product: what `down` reads of it
  AlignedBuffer<float> up;         // [token][n_ff]
  RopeTable rope;
  RopeTable rope_window;
  AttentionPlan attention_plans[kPageGroups];
  AlignedBuffer<float> attention_parts;  // of tokens whose context several threads share
  HeadWorkspace head;

 private:
  MemoryCharge charge_;
};

struct TokenRange {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
};

// What every block works on.
struct Step {
  const Config& config;
  const Weights& weights;
  const KvLayout& kv;
  DecoderWorkspace& ws;
  Gang& gang;
  TokenRange part = {};  // what one thread computes of the tokens; empty: all of them, and all do

  bool is_part() const { return part.size() > 0; }
  TokenRange tokens() const { return is_part() ? part : TokenRange{0, ws.tokens.size()}; }
  size_t n_tokens() const { return tokens().size(); }
};

// Of the layers of a page group.
AttentionShape attention_shape(const Step& step, PageGroup group);

// Up to this many tokens, work on single rows is done by the calling thread: waking helpers costs
// more.
inline constexpr size_t kInlineTokens = 4;

// The tokens whose rows a thread of the gang computes, if it comes in time: the same in all
// regions of a step up to its last attention. REQUIRES: a whole step.
inline TokenRange tokens_of(const Step& step, size_t worker) {
  const Ownership tokens{step.n_tokens(), static_cast<size_t>(step.gang.n_threads())};
  return {tokens.first_of(worker), tokens.first_of(worker + 1)};
}

// fn(token) for every token of the step. Neighbours go to one thread, up to a page of them: what
// they write lies in the same lines.
template <class Fn>
void for_each_token(const Step& step, const Fn& fn) {
  const TokenRange all = step.tokens();
  if (step.is_part() || all.size() <= kInlineTokens) {
    for (size_t t = all.begin; t < all.end; ++t) fn(t);
    return;
  }
  const size_t fair = all.size() / (2 * static_cast<size_t>(step.gang.n_threads()));
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

// fn(part) for parts of the step's tokens, by one thread each; fn(step) where parts would be small.
// A part reads all weights, but its activations pass from block to block within one thread's
// caches, and nobody waits in between. fn is made of pieces that say so. REQUIRES: a whole step.
template <class Fn>
void in_parts(const Step& step, const Fn& fn) {
  const auto n_threads = static_cast<size_t>(step.gang.n_threads());
  const size_t least = kernels().least_part_tokens;
  if (n_threads == 1 || step.n_tokens() / n_threads / n_threads < least) return fn(step);
  // Several of a thread's, if they can be large: others may take some.
  const auto n_parts = [&](size_t worker) {
    return std::max(tokens_of(step, worker).size() / (2 * least * n_threads), size_t{1});
  };
  WorkerShares shares(step.gang.n_threads(), n_parts);
  shares.for_each(step.gang, [&](size_t owner, size_t i) {
    const TokenRange own = tokens_of(step, owner);
    const Ownership parts{own.size(), n_parts(owner)};
    Step part = step;
    part.part = {own.begin + parts.first_of(i), own.begin + parts.first_of(i + 1)};
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

// Lists the tokens and the outputs, plans the attention, fills the rotary tables. REQUIRES: a whole
// step.
void begin_step(std::span<const SequenceSlice> slices, const Step& step);
void embed(const Step& step);  // hidden = embedding row * embedding_scale
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
// attended = softmax(q k) v, ready for products. Of the last layer's tokens only the outputs go on:
// from here the step has no others, in hidden too, and the rows of k, v and the rotary tables are
// nobody's. False: it has none. REQUIRES: a whole step, whose keys and values of this layer are
// stored.
[[nodiscard]] bool attention(const Step& step, size_t i_layer);
void project_out(const Step& step, const LayerWeights& layer);  // projected = o attended
void feed_forward(const Step& step,
                  const LayerWeights& layer);  // projected = down (act(gate normed) * up normed)

}  // namespace smallmind
