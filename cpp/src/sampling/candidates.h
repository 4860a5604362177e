// The tokens still in the running for one choice, in the order of ranks_before().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/token_logit.h"

namespace smallmind {

using Candidate = TokenLogit;

// One thread at a time; meant to be reused, since it keeps its buffers. The row is borrowed from
// reset() to the next reset(). Ranks are found lazily and by partial selection: the vocabulary is
// never sorted as a whole unless a caller asks for its last rank.
// REQUIRES of the row: no NaN, no +infinity. -infinity is a banned token.
class Candidates {
 public:
  Candidates() = default;
  // With room for rows of n_vocab: nothing is allocated later.
  explicit Candidates(size_t n_vocab);

  // All tokens of the row are in the running.
  void reset(std::span<const float> row);
  // Those of the given first ranks of a row that are not banned are in the running, one at least;
  // nothing is borrowed.
  void reset(std::span<const Candidate> ranks, std::span<const int32_t> banned);

  size_t size() const { return n_kept_; }  // never 0
  // Keeps the first n in rank order, at least one.
  void keep_first(size_t n);
  // The candidate of that rank. REQUIRES: rank < size().
  const Candidate& ranked(size_t rank);
  // The sum of exp((logit - best) / temperature) over those in the running.
  double mass(double temperature);

 private:
  void rank_at_least(size_t n);
  void collect_from_blocks(size_t n);

  std::span<const float> row_;
  size_t n_kept_ = 0;
  std::vector<Candidate> ranked_;  // the first ranks, in order
  std::vector<float> block_max_;   // of each block of 256 tokens; empty: not yet computed
  std::vector<float> scratch_;
};

}  // namespace smallmind
