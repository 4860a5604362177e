// Decides what the next step computes. Pure functions over plain data: no model, no threads, no
// clock.
#pragma once

#include <cstdint>
#include <span>

#include "serving/step_plan.h"

namespace smallmind {

inline constexpr double kTargetStepSeconds = 0.020;
inline constexpr double kLongestWaitSeconds = 2.0;  // then age goes before size
inline constexpr int64_t kMaxChunk = 128;
inline constexpr int64_t kChunkMultiple = 16;

// Requests with one token left come first, those served longest ago before others; then chunks of
// longer ones while the predicted time lasts: the fewest tokens left first, but whoever has waited
// too long before all. At least one slice whenever a request is runnable.
StepPlan plan_step(std::span<const RequestView> requests, const StepCost& cost);

// How many of n_left tokens after n_cached fit into `seconds`: all, or a multiple of 16 in [16,
// 128].
int64_t chunk_tokens(int64_t n_cached, int64_t n_left, double seconds, const StepCost& cost);

}  // namespace smallmind
