// THE LIST of sampling steps, in running order. A new step is one file in steps/ and one name here.
#pragma once

#include <tuple>

#include "sampling/steps/logit_bias.h"
#include "sampling/steps/min_p.h"
#include "sampling/steps/penalties.h"
#include "sampling/steps/temperature.h"
#include "sampling/steps/top_k.h"
#include "sampling/steps/top_p.h"

namespace smallmind {

using AdjustSteps = std::tuple<LogitBiasStep, PenaltiesStep>;
using NarrowSteps = std::tuple<TopKStep, TopPStep, MinPStep>;
using DrawStep = TemperatureStep;

// Calls visit(Step{}) for each step of a list, in order.
template <class Steps, class Visit>
void for_each_step(const Visit& visit) {
  std::apply([&visit](auto... steps) { (visit(steps), ...); }, Steps{});
}

// Calls visit(field) for each option of every step.
template <class Visit>
void for_each_field(const Visit& visit) {
  for_each_step<AdjustSteps>([&](auto step) {
    std::apply([&](const auto&... fields) { (visit(fields), ...); }, decltype(step)::kFields);
  });
  for_each_step<NarrowSteps>([&](auto step) {
    std::apply([&](const auto&... fields) { (visit(fields), ...); }, decltype(step)::kFields);
  });
  std::apply([&](const auto&... fields) { (visit(fields), ...); }, DrawStep::kFields);
}

}  // namespace smallmind
