// Draws one of the candidates: probabilities are flattened or sharpened by the temperature, the
// random number walks the ranks. Temperature 0 is the most likely token.
#pragma once

#include <tuple>

#include "base/math.h"
#include "sampling/candidates.h"
#include "sampling/step.h"

namespace smallmind {

struct TemperatureStep {
  static constexpr std::tuple kFields{
      RealField{"temperature", &SamplingParams::temperature, 0, true, 100,
                "divides the logits before the draw; 0 always takes the most likely token"}};

  // uniform is in [0, 1).
  static int32_t draw(const SamplingParams& params, Candidates& candidates, double uniform) {
    if (params.temperature <= 0) return candidates.ranked(0).id;
    const double best = static_cast<double>(candidates.ranked(0).logit);
    const double wanted = uniform * candidates.mass(params.temperature);
    double reached = 0;
    int32_t last = candidates.ranked(0).id;
    for (size_t rank = 0; rank < candidates.size(); ++rank) {
      const Candidate& candidate = candidates.ranked(rank);
      const double weight =
          exp_portable((static_cast<double>(candidate.logit) - best) / params.temperature);
      if (weight <= 0) break;  // so is all that follows
      last = candidate.id;
      reached += weight;
      if (reached > wanted) break;
    }
    return last;
  }
};

}  // namespace smallmind
