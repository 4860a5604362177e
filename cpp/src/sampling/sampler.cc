#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/counter_rng.h"
#include "base/math.h"
#include "kernels/kernels.h"
#include "sampling/steps.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

void require_finite(std::span<const float> row) {
  if (kernels().all_finite(row.data(), row.size())) return;
  for (size_t id = 0; id < row.size(); ++id) {
    if (std::isfinite(row[id])) continue;
    throw Error(ErrorKind::kInference, "NON_FINITE_LOGITS",
                "the model gave a logit that is not a finite number, first for token " +
                    std::to_string(id) + " of " + std::to_string(row.size()));
  }
}

// Natural logarithms of the softmax of the raw row.
ChosenLogprob raw_logprobs(std::span<const float> row, size_t n_top, Candidates& candidates) {
  candidates.reset(row);
  const double best = static_cast<double>(candidates.ranked(0).logit);
  const double log_mass = log_portable(candidates.mass(1));
  ChosenLogprob result;
  result.logprob = best + log_mass;  // what to subtract; the caller knows the chosen token later
  for (size_t rank = 0; rank < std::min(n_top, row.size()); ++rank) {
    const Candidate& candidate = candidates.ranked(rank);
    result.top.emplace_back(candidate.id, static_cast<double>(candidate.logit) - best - log_mass);
  }
  return result;
}

void require_choice(float best_logit) {
  // A bias may also overflow to +infinity, which leaves no order among the tokens that have it.
  if (std::isfinite(best_logit)) return;
  throw Error(ErrorKind::kInference, "NO_TOKEN_LEFT",
              "logit_bias and ignore_eos leave no token that could be chosen");
}

}  // namespace

// The window as far as it is worth reserving for.
size_t Sampler::counted_tokens(const SamplingParams& params) {
  constexpr int64_t kMostReserved = 1024;
  return PenaltiesStep::is_on(params)
             ? static_cast<size_t>(std::min(params.repeat_last_n, kMostReserved))
             : 0;
}

void Sampler::count_recent(std::span<const int32_t> context) {
  const size_t window = static_cast<size_t>(params_.repeat_last_n);
  // Tokens that would leave again at once are never counted.
  const size_t first = context.size() > window ? context.size() - window : 0;
  const size_t old_first = n_counted_ > window ? n_counted_ - window : 0;
  for (size_t i = old_first; i < std::min(first, n_counted_); ++i) recent_.remove(context[i]);
  for (size_t i = std::max(first, n_counted_); i < context.size(); ++i) recent_.add(context[i]);
  n_counted_ = context.size();
}

int32_t Sampler::draw(Candidates& candidates, size_t position) const {
  for_each_step<NarrowSteps>([&](auto step) { decltype(step)::narrow(params_, candidates); });
  return DrawStep::draw(params_, candidates, counter_uniform(seed_, position));
}

// The steps that narrow come in order, top-k first: what it drops nobody sees.
size_t Sampler::n_deciding() const {
  const bool is_greedy = params_.temperature <= 0;
  bool is_adjusted = params_.logprobs.has_value();
  for_each_step<AdjustSteps>(
      [&](auto step) { is_adjusted = is_adjusted || decltype(step)::is_on(params_); });
  if (is_adjusted || (!is_greedy && params_.top_k == 0)) return 0;
  return (is_greedy ? 1 : static_cast<size_t>(params_.top_k)) + banned_.size();
}

Choice Sampler::choose(std::span<const Candidate> ranks, std::span<const int32_t> context,
                       SamplerScratch& scratch) const {
  Choice choice;
  scratch.candidates.reset(ranks, banned_);
  choice.id = params_.temperature <= 0 ? scratch.candidates.ranked(0).id
                                       : draw(scratch.candidates, context.size());
  return choice;
}

Choice Sampler::choose(std::span<float> row, std::span<const int32_t> context,
                       SamplerScratch& scratch) {
  require_finite(row);
  Choice choice;
  std::vector<float> raw;  // only where asked for: the row is about to change
  if (params_.logprobs) {
    choice.logprob = raw_logprobs(row, static_cast<size_t>(*params_.logprobs), scratch.candidates);
    raw.assign(row.begin(), row.end());
  }
  if (PenaltiesStep::is_on(params_)) count_recent(context);
  for_each_step<AdjustSteps>([&](auto step) {
    if (decltype(step)::is_on(params_)) decltype(step)::adjust(params_, recent_, row);
  });
  for (int32_t id : banned_) row[static_cast<size_t>(id)] = kBanned;

  if (params_.temperature <= 0) {
    choice.id = static_cast<int32_t>(kernels().highest(row.data(), row.size()));
    require_choice(row[static_cast<size_t>(choice.id)]);
  } else {
    Candidates& candidates = scratch.candidates;
    candidates.reset(row);
    require_choice(candidates.ranked(0).logit);
    choice.id = draw(candidates, context.size());
  }
  if (choice.logprob) {
    choice.logprob->logprob =
        static_cast<double>(raw[static_cast<size_t>(choice.id)]) - choice.logprob->logprob;
  }
  return choice;
}

}  // namespace smallmind
