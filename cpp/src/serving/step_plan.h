// What one step computes: plain data between the scheduler and the runner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace smallmind {

// A request as the scheduler sees it.
struct RequestView {
  int64_t n_cached = 0;        // tokens whose KV is there
  int64_t n_left = 0;          // tokens of the context not yet computed; 1 for one that decodes
  bool is_runnable = true;     // false: its reader is behind
  uint64_t last_step = 0;      // the step that served it last; 0: none yet
  double waiting_seconds = 0;  // since it was served last, or since it came
};

// Predicted seconds of a step: the sum over its tokens of (per_token + per_context * context).
struct StepCost {
  double per_token = 0;
  double per_context = 0;
};

struct PlannedSlice {
  size_t request = 0;  // index into the views
  int64_t n_tokens = 0;
  bool operator==(const PlannedSlice&) const = default;
};

// Slices in the order of the batch; empty when nothing can run.
struct StepPlan {
  std::vector<PlannedSlice> slices;
};

}  // namespace smallmind
