// Decides what the next step computes, and who may run next. Pure functions over plain data: no
// model, no threads, no clock.
#pragma once

#include <cstdint>
#include <span>

#include "serving/step_plan.h"

namespace smallmind {

// What a step should take: less beside a stream, which waits for its next token, than for prompts
// alone, which gain from reading the weights less often. Many streams take long by themselves;
// beside them a step may take kMostSlowing times as long as theirs alone, up to kPromptStepSeconds.
inline constexpr double kStreamStepSeconds = 0.020;
inline constexpr double kPromptStepSeconds = 0.060;
inline constexpr double kMostSlowing = 4;
inline constexpr double kLongestOvertaking = 2.0;  // seconds; then first come, first served
inline constexpr int64_t kMaxChunk = 128;
inline constexpr int64_t kChunkMultiple = 16;

// Requests with one token left come first, those served longest ago before others; then chunks of
// longer ones while the predicted time lasts. Of these, the key that has used the least time goes
// first; within it, whoever was overtaken for too long, in the order of arrival; then the fewest
// tokens left. A request that waits for another's block is not planned and lends the other its
// place. While several keys want to decode, none takes more than its share of the batch. At least
// one slice whenever a request is runnable and not blocked.
void plan_step(std::span<const RequestView> requests, std::span<const KeyView> keys,
               const StepCost& cost, StepPlan& plan);

// How many of n_left tokens after n_cached fit into `seconds`: all, or a multiple of 16 in [16,
// 128].
int64_t chunk_tokens(int64_t n_cached, int64_t n_left, double seconds, const StepCost& cost);

double predicted_seconds(int64_t n_cached, int64_t n_tokens, const StepCost& cost);

// A request that waits to be admitted.
struct WaitingView {
  uint64_t arrival = 0;
  int32_t key = 0;
  bool may_run = true;
};

// Who is to be admitted next: of those that may run, of the key that has used the least time, the
// one that came first. -1: nobody.
int64_t next_admission(std::span<const WaitingView> waiting, std::span<const KeyView> keys);

// Whether one more request may run beside those that do: up to the batch's size, and beyond it up
// to the key's share, so that a key that floods the engine cannot keep another out.
bool may_run(int64_t n_running, int64_t n_running_of_key, int64_t n_active_keys);

}  // namespace smallmind
