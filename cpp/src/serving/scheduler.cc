#include "serving/scheduler.h"

#include <algorithm>

#include "model/model.h"

namespace smallmind {
namespace {

constexpr int64_t kMaxSlices = kMaxBatchSequences;

int64_t share_of_a_key(int64_t n_keys) {
  return std::max<int64_t>(1, kMaxSlices / std::max<int64_t>(1, n_keys));
}

// Sorts requests into those that decode and those with more to compute, and has the blocked ones
// lend their urgency to those that they wait for.
void classify(std::span<const RequestView> requests, StepPlan& plan) {
  plan.decodes.clear();
  plan.prefills.clear();
  plan.left.clear();
  plan.overtaken.clear();
  for (const RequestView& request : requests) {
    plan.left.push_back(request.n_left);
    plan.overtaken.push_back(request.overtaken_seconds);
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const RequestView& request = requests[i];
    if (!request.is_runnable || request.n_left <= 0) continue;
    if (request.blocked_by >= 0) {
      const auto blocker = static_cast<size_t>(request.blocked_by);
      plan.left[blocker] = std::min(plan.left[blocker], request.n_left);
      plan.overtaken[blocker] = std::max(plan.overtaken[blocker], request.overtaken_seconds);
      continue;
    }
    (request.n_left == 1 ? plan.decodes : plan.prefills).push_back(i);
  }
}

void sort_decodes(std::span<const RequestView> requests, StepPlan& plan) {
  std::sort(plan.decodes.begin(), plan.decodes.end(), [&](size_t a, size_t b) {
    if (requests[a].last_step != requests[b].last_step) {
      return requests[a].last_step < requests[b].last_step;
    }
    return requests[a].arrival < requests[b].arrival;
  });
}

void sort_prefills(std::span<const RequestView> requests, std::span<const KeyView> keys,
                   StepPlan& plan) {
  const auto used = [&](size_t i) {
    return keys[static_cast<size_t>(requests[i].key)].seconds_used;
  };
  std::sort(plan.prefills.begin(), plan.prefills.end(), [&](size_t a, size_t b) {
    if (used(a) != used(b)) return used(a) < used(b);
    const bool a_is_late = plan.overtaken[a] > kLongestOvertaking;
    const bool b_is_late = plan.overtaken[b] > kLongestOvertaking;
    if (a_is_late != b_is_late) return a_is_late;
    if (!a_is_late && plan.left[a] != plan.left[b]) return plan.left[a] < plan.left[b];
    return requests[a].arrival < requests[b].arrival;
  });
}

// Slots of the batch that each key may decode in.
int64_t decode_share(std::span<const RequestView> requests, size_t n_keys, StepPlan& plan) {
  plan.key_slots.assign(n_keys, 0);
  int64_t n_active = 0;
  for (const RequestView& request : requests) {
    if (!request.is_runnable || request.n_left <= 0) continue;
    n_active += plan.key_slots[static_cast<size_t>(request.key)]++ == 0;
  }
  plan.key_slots.assign(n_keys, 0);
  return n_active <= 1 ? kMaxSlices : share_of_a_key(n_active);
}

// What a step with these decodes has left for prompts.
double seconds_for_prompts(const StepPlan& plan, const StepCost& cost) {
  if (plan.slices.empty()) return kPromptStepSeconds;
  double streams = cost.choosing_seconds;
  for (const PlannedSlice& slice : plan.slices) streams += slice.seconds;
  return std::clamp(kMostSlowing * streams, kStreamStepSeconds, kPromptStepSeconds) - streams;
}

}  // namespace

double predicted_seconds(int64_t n_cached, int64_t n_tokens, const StepCost& cost) {
  const double n = static_cast<double>(n_tokens);
  const double mean_context = static_cast<double>(n_cached) + n / 2;
  return n * (cost.per_token + cost.per_context * mean_context);
}

int64_t chunk_tokens(int64_t n_cached, int64_t n_left, double seconds, const StepCost& cost) {
  int64_t n = kMaxChunk;
  while (n > kChunkMultiple && predicted_seconds(n_cached, n, cost) > seconds) n -= kChunkMultiple;
  return std::min(n, n_left);
}

void plan_step(std::span<const RequestView> requests, std::span<const KeyView> keys,
               const StepCost& cost, StepPlan& plan) {
  plan.slices.clear();
  classify(requests, plan);
  sort_decodes(requests, plan);
  sort_prefills(requests, keys, plan);
  const int64_t share = decode_share(requests, keys.size(), plan);
  int64_t n_tokens = 0;
  const auto add = [&](size_t i, int64_t n) {
    plan.slices.push_back({i, n, predicted_seconds(requests[i].n_cached, n, cost)});
    n_tokens += n;
  };
  // One place stays free for a prefill, or a crowd of decoders would keep newcomers out for ever.
  const int64_t max_decodes = plan.prefills.empty() ? kMaxSlices : kMaxSlices - 1;
  for (const size_t i : plan.decodes) {
    if (n_tokens >= max_decodes) break;
    if (plan.key_slots[static_cast<size_t>(requests[i].key)]++ < share) add(i, 1);
  }
  double seconds_left = seconds_for_prompts(plan, cost);
  for (const size_t i : plan.prefills) {
    // The first prefill always gets its least chunk; more only while time is left.
    const bool is_first = i == plan.prefills.front();
    const bool is_full = static_cast<int64_t>(plan.slices.size()) >= kMaxSlices;
    if (!is_first && (seconds_left <= 0 || is_full)) break;
    const RequestView& request = requests[i];
    const int64_t n = chunk_tokens(request.n_cached, request.n_left, seconds_left, cost);
    if (!is_first && predicted_seconds(request.n_cached, n, cost) > seconds_left) break;
    if (n_tokens + n > kMaxBatchTokens) break;
    add(i, n);
    seconds_left -= plan.slices.back().seconds;
  }
}

int64_t next_admission(std::span<const WaitingView> waiting, std::span<const KeyView> keys) {
  int64_t best = -1;
  const auto is_before = [&](const WaitingView& a, const WaitingView& b) {
    const double a_used = keys[static_cast<size_t>(a.key)].seconds_used;
    const double b_used = keys[static_cast<size_t>(b.key)].seconds_used;
    return a_used != b_used ? a_used < b_used : a.arrival < b.arrival;
  };
  for (size_t i = 0; i < waiting.size(); ++i) {
    if (!waiting[i].may_run) continue;
    if (best < 0 || is_before(waiting[i], waiting[static_cast<size_t>(best)])) {
      best = static_cast<int64_t>(i);
    }
  }
  return best;
}

bool may_run(int64_t n_running, int64_t n_running_of_key, int64_t n_active_keys) {
  return n_running < kMaxSlices || n_running_of_key < share_of_a_key(n_active_keys);
}

}  // namespace smallmind
