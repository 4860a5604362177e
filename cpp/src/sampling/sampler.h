// Chooses the next token of one request from a row of raw logits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "sampling/candidates.h"
#include "sampling/step.h"
#include "smallmind/options.h"

namespace smallmind {

struct ChosenLogprob {
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;
};

struct Choice {
  int32_t id = 0;
  std::optional<ChosenLogprob> logprob;  // where params.logprobs asks for it
};

// Buffers that a thread reuses from choice to choice.
struct SamplerScratch {
  Candidates candidates;
};

// One request's sampling state; one thread at a time. The choice is a function of (row, params,
// seed, the context's tokens and length): the random number is drawn for (seed, position in the
// context), so a generation cut in two and continued chooses as one that was not.
class Sampler {
 public:
  // banned: ids that are never chosen (the end-of-generation tokens where ignore_eos asks for it).
  // `params` and `banned` must outlive the sampler. REQUIRES: params passed validate().
  Sampler(const SamplingParams& params, uint64_t seed, std::span<const int32_t> banned)
      : params_(params), seed_(seed), banned_(banned), recent_(counted_tokens(params)) {}

  // context: all tokens before the one to choose; from call to call it may only grow. The row is
  // changed. Throws Error(kInference): NON_FINITE_LOGITS when the row holds NaN or infinity,
  // NO_TOKEN_LEFT when every token is banned.
  Choice choose(std::span<float> row, std::span<const int32_t> context, SamplerScratch& scratch);

  // So many of a row's first ranks decide the choice, whatever the others; 0: all do.
  size_t n_deciding() const;
  // The same choice as from the whole row, from its first n_deciding() ranks or more.
  // REQUIRES: n_deciding() > 0, all of the row is finite.
  Choice choose(std::span<const Candidate> ranks, std::span<const int32_t> context,
                SamplerScratch& scratch) const;

 private:
  static size_t counted_tokens(const SamplingParams& params);
  int32_t draw(Candidates& candidates, size_t position) const;
  void count_recent(std::span<const int32_t> context);

  const SamplingParams& params_;
  const uint64_t seed_;
  const std::span<const int32_t> banned_;
  TokenCounts recent_;
  size_t n_counted_ = 0;  // context tokens already in recent_ (and perhaps out of it again)
};

}  // namespace smallmind
