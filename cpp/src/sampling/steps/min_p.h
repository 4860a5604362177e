// Keeps the tokens that are at least a share as likely as the best one.
#pragma once

#include <limits>
#include <tuple>

#include "base/math.h"
#include "sampling/candidates.h"
#include "sampling/step.h"

namespace smallmind {

struct MinPStep {
  static constexpr std::tuple kFields{
      RealField{"min_p", &SamplingParams::min_p, 0, true, 1,
                "drops tokens less likely than this share of the most likely one; 0 drops none"}};

  static void narrow(const SamplingParams& params, Candidates& candidates) {
    if (params.min_p <= 0) return;
    // The logarithm wants a normal number; nothing with a share below that is ever drawn.
    const double share = params.min_p > std::numeric_limits<double>::min()
                             ? params.min_p
                             : std::numeric_limits<double>::min();
    const double bound = static_cast<double>(candidates.ranked(0).logit) + log_portable(share);
    size_t n = 1;
    while (n < candidates.size() && static_cast<double>(candidates.ranked(n).logit) >= bound) ++n;
    candidates.keep_first(n);
  }
};

}  // namespace smallmind
