// The last product, hidden states to logits, and its shortcut for those who need but the first
// ranks.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/tracking_allocator.h"
#include "model/blocks.h"
#include "model/model.h"
#include "model/weights.h"

namespace smallmind {

// Immutable after construction; any thread, each with its own workspace and gang. The matrix's
// panels are borrowed.
//
// The shortcut computes a coarse logit of every token, with the upper plane of the input's codes
// alone but for the few blocks where the lower one holds most, and keeps its maximum over each
// panel of 16 tokens. (Where an instruction set wants smaller codes, they are halved: the upper
// plane lacks twice as much, and both together lack the lowest bit.) Let w be a row of weights, x
// the input as both planes give it, y what enters, and |.| the Euclidean norm. Then
//   |w x - w y| <= |w| |x - y|                              (Cauchy and Schwarz),
// and each of the two sums, of at most k products with k roundings, is off by at most
//   k u / (1 - k u) * (sum of its terms' magnitudes) <= k u / (1 - k u) |w| |x|, or |y|,
// u = 2^-24. So coarse and exact logit differ by at most |w| times a number that depends on the
// input alone, and no token of a panel can be above its coarse maximum by more than that. The n-th
// highest of (coarse maximum - error) is a bound that at least n tokens reach; the panels that
// cannot reach it are left out, the exact logits of the others decide. What is found is therefore
// what sorting all exact logits gives, equal ones included, bit for bit.
//
// It works for formats whose blocks are code * scale alone, and without a cap: rounded, a cap is
// not monotone.
class OutputHead {
 public:
  // norms: Kernels::panel_norms of all panels; not read where there is a cap. Without them no first
  // ranks are found. The ledger may be null.
  OutputHead(const PackedMatrix& matrix, float softcap, std::vector<float> norms,
             std::shared_ptr<MemoryLedger> ledger);

  // As Model::logits and Model::first_ranks.
  void logits(const Step& step, std::span<const int32_t> rows, float* out) const;
  void first_ranks(const Step& step, std::span<RankedRow> rows) const;

 private:
  void prepare(const Step& step, size_t i, int32_t row) const;
  void choose_fine_blocks(const Step& step, size_t n_rows) const;
  float error_of(const Step& step, size_t i) const;
  void find(const Step& step, size_t i, RankedRow& row) const;
  PackedMatrix panel(size_t p) const;

  PackedMatrix matrix_;
  float softcap_;             // 0: none
  std::vector<float> norms_;  // of the longest row of each panel; empty: no shortcut
  float longest_ = 0;
  MemoryCharge charge_;
};

// Half the codes of one token's inputs, rounded down, in two planes within +-64, and their sums:
// what coarse products with a coarse_limit of 64 take.
void halve_codes(const Activations& from, const Activations& to);

}  // namespace smallmind
