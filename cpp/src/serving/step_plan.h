// What one step computes: plain data between the scheduler and the runner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace smallmind {

// A request as the scheduler sees it.
struct RequestView {
  int64_t n_cached = 0;          // tokens whose KV is there
  int64_t n_left = 0;            // tokens of the context not yet computed; 1 for one that decodes
  bool is_runnable = true;       // false: its reader is behind
  int32_t blocked_by = -1;       // index of the request that computes its next block; -1: none
  uint64_t arrival = 0;          // the order in which requests came
  uint64_t last_step = 0;        // the step that served it last; 0: none yet
  double overtaken_seconds = 0;  // of steps that were given to prompts of its key that came later
  int32_t key = 0;               // whose time it uses: index into the keys
};

// One fairness key.
struct KeyView {
  double seconds_used = 0;  // of steps, by its requests
};

// Predicted seconds of a step's forward pass: the sum over its tokens of (per_token + per_context *
// context). Choosing the next tokens comes on top; it took so long of late.
struct StepCost {
  double per_token = 0;
  double per_context = 0;
  double choosing_seconds = 0;
};

struct PlannedSlice {
  size_t request = 0;  // index into the views
  int64_t n_tokens = 0;
  double seconds = 0;  // predicted
};

// Slices in the order of the batch; empty when nothing can run. Re-used from step to step, so that
// planning allocates nothing once its vectors have grown.
struct StepPlan {
  std::vector<PlannedSlice> slices;

  // The scheduler's working memory.
  std::vector<size_t> decodes;
  std::vector<size_t> prefills;
  std::vector<int64_t> left;  // tokens left, as others that wait for the request see them
  std::vector<double> overtaken;
  std::vector<int32_t> key_slots;

  // Room for plans over n requests.
  void reserve(size_t n) {
    slices.reserve(n);
    decodes.reserve(n);
    prefills.reserve(n);
    left.reserve(n);
    overtaken.reserve(n);
    key_slots.reserve(n);
  }
};

}  // namespace smallmind
