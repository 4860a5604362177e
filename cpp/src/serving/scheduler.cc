#include "serving/scheduler.h"

#include <algorithm>
#include <vector>

#include "model/model.h"

namespace smallmind {
namespace {

constexpr size_t kMaxSlices = kMaxBatchSequences;

double predicted_seconds(int64_t n_cached, int64_t n_tokens, const StepCost& cost) {
  const double n = static_cast<double>(n_tokens);
  const double mean_context = static_cast<double>(n_cached) + n / 2;
  return n * (cost.per_token + cost.per_context * mean_context);
}

}  // namespace

int64_t chunk_tokens(int64_t n_cached, int64_t n_left, double seconds, const StepCost& cost) {
  int64_t n = kMaxChunk;
  while (n > kChunkMultiple && predicted_seconds(n_cached, n, cost) > seconds) n -= kChunkMultiple;
  return std::min(n, n_left);
}

StepPlan plan_step(std::span<const RequestView> requests, const StepCost& cost) {
  std::vector<size_t> decodes;
  std::vector<size_t> prefills;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (!requests[i].is_runnable || requests[i].n_left <= 0) continue;
    (requests[i].n_left == 1 ? decodes : prefills).push_back(i);
  }
  std::stable_sort(decodes.begin(), decodes.end(), [&](size_t a, size_t b) {
    return requests[a].last_step < requests[b].last_step;
  });
  std::stable_sort(prefills.begin(), prefills.end(), [&](size_t a, size_t b) {
    const RequestView& left = requests[a];
    const RequestView& right = requests[b];
    const bool left_is_late = left.waiting_seconds > kLongestWaitSeconds;
    const bool right_is_late = right.waiting_seconds > kLongestWaitSeconds;
    if (left_is_late != right_is_late) return left_is_late;
    if (left_is_late) return left.waiting_seconds > right.waiting_seconds;
    return left.n_left < right.n_left;
  });

  StepPlan plan;
  double seconds_left = kTargetStepSeconds;
  int64_t n_tokens = 0;
  // One place stays free for a prefill, or a crowd of decoders would keep newcomers out for ever.
  const size_t max_decodes = prefills.empty() ? kMaxSlices : kMaxSlices - 1;
  for (size_t i = 0; i < std::min(decodes.size(), max_decodes); ++i) {
    plan.slices.push_back({decodes[i], 1});
    seconds_left -= predicted_seconds(requests[decodes[i]].n_cached, 1, cost);
    ++n_tokens;
  }
  for (size_t i : prefills) {
    // The first prefill always gets its least chunk; more only while time is left.
    const bool is_first = i == prefills.front();
    if (!is_first && (seconds_left <= 0 || plan.slices.size() >= kMaxSlices)) break;
    const RequestView& request = requests[i];
    const int64_t n = chunk_tokens(request.n_cached, request.n_left, seconds_left, cost);
    const double seconds = predicted_seconds(request.n_cached, n, cost);
    if (!is_first && seconds > seconds_left) break;
    if (n_tokens + n > kMaxBatchTokens) break;
    plan.slices.push_back({i, n});
    seconds_left -= seconds;
    n_tokens += n;
  }
  return plan;
}

}  // namespace smallmind
