// Makes tokens of the recent context less likely. Each token is touched once, whatever the order of
// the counts.
#pragma once

#include <span>
#include <tuple>

#include "sampling/step.h"

namespace smallmind {

struct PenaltiesStep {
  static constexpr std::tuple kFields{
      RealField{"repeat_penalty", &SamplingParams::repeat_penalty, 0, false, 100,
                "divides the positive logits of recent tokens and multiplies the negative ones"},
      CountField{"repeat_last_n", &SamplingParams::repeat_last_n, 0, kMaxCount,
                 "how many of the last tokens all three penalties look at; 0 turns them off"},
      RealField{"presence_penalty", &SamplingParams::presence_penalty, -100, true, 100,
                "subtracted from the logit of every recent token"},
      RealField{"frequency_penalty", &SamplingParams::frequency_penalty, -100, true, 100,
                "subtracted from the logit of a recent token once for each time it occurs"}};

  static bool is_on(const SamplingParams& params) {
    return params.repeat_last_n > 0 &&
           (params.repeat_penalty != 1 || params.presence_penalty != 0 ||
            params.frequency_penalty != 0);
  }
  static void adjust(const SamplingParams& params, const TokenCounts& counts,
                     std::span<float> row) {
    counts.for_each([&](int32_t id, int64_t count) {
      float& stored = row[static_cast<size_t>(id)];
      double logit = static_cast<double>(stored);
      logit = logit > 0 ? logit / params.repeat_penalty : logit * params.repeat_penalty;
      logit -= params.presence_penalty;
      logit -= params.frequency_penalty * static_cast<double>(count);
      stored = static_cast<float>(logit);
    });
  }
};

}  // namespace smallmind
