// Keeps the k most likely tokens.
#pragma once

#include <tuple>

#include "sampling/candidates.h"
#include "sampling/step.h"

namespace smallmind {

struct TopKStep {
  static constexpr std::tuple kFields{CountField{"top_k", &SamplingParams::top_k, 0, kMaxCount,
                                                 "keeps the k most likely tokens; 0 keeps all"}};

  static void narrow(const SamplingParams& params, Candidates& candidates) {
    if (params.top_k > 0) candidates.keep_first(static_cast<size_t>(params.top_k));
  }
};

}  // namespace smallmind
