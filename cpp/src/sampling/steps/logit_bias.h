// Adds a number to the logits of named tokens; -infinity bans one. Its entries are checked by
// validate(): ids and sizes depend on the model.
#pragma once

#include <span>
#include <tuple>

#include "sampling/step.h"

namespace smallmind {

struct LogitBiasStep {
  static constexpr std::tuple<> kFields{};

  static bool is_on(const SamplingParams& params) { return !params.logit_bias.empty(); }
  static void adjust(const SamplingParams& params, const TokenCounts&, std::span<float> row) {
    for (const auto& [id, bias] : params.logit_bias) {
      float& logit = row[static_cast<size_t>(id)];
      logit = static_cast<float>(static_cast<double>(logit) + bias);
    }
  }
};

}  // namespace smallmind
