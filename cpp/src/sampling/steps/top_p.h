// Keeps the most likely tokens that together reach a share of the probability.
#pragma once

#include <tuple>

#include "base/math.h"
#include "sampling/candidates.h"
#include "sampling/step.h"

namespace smallmind {

struct TopPStep {
  static constexpr std::tuple kFields{
      RealField{"top_p", &SamplingParams::top_p, 0, false, 1,
                "keeps the fewest most likely tokens whose probabilities sum to this; 1 keeps "
                "all"}};

  static void narrow(const SamplingParams& params, Candidates& candidates) {
    if (params.top_p >= 1) return;
    const double wanted = params.top_p * candidates.mass(1);
    const double best = static_cast<double>(candidates.ranked(0).logit);
    double reached = 0;
    for (size_t rank = 0; rank < candidates.size(); ++rank) {
      reached += exp_portable(static_cast<double>(candidates.ranked(rank).logit) - best);
      if (reached >= wanted) return candidates.keep_first(rank + 1);
    }
  }
};

}  // namespace smallmind
