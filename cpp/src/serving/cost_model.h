// Learns what a step costs from the steps that ran. The estimate only sizes chunks, and chunk size
// cannot change an output, so the clock may have a say here.
#pragma once

#include <cstdint>

#include "serving/step_plan.h"

namespace smallmind {

// One thread at a time. Least squares over (tokens, tokens x context) with fading memory.
class CostModel {
 public:
  const StepCost& cost() const noexcept { return cost_; }
  // n_tokens of the step and the sum over them of their context. Steps of fewer than 16 tokens are
  // bound by reading weights and say nothing about chunks: they are left out.
  void observe(int64_t n_tokens, double sum_of_contexts, double seconds) noexcept;
  // What choosing the next tokens of a step took.
  void observe_choosing(double seconds) noexcept;

 private:
  StepCost cost_{0.0004, 0};  // a guess: chunks of 128, and of 48 beside a stream
  double nn_ = 0, nc_ = 0, cc_ = 0, nt_ = 0, ct_ = 0;  // faded sums of products
};

}  // namespace smallmind
