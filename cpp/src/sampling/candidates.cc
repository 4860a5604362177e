#include "sampling/candidates.h"

#include <algorithm>
#include <functional>

#include "kernels/kernels.h"

namespace smallmind {
namespace {

constexpr size_t kMaxBlock = 256;
constexpr size_t kFirstRanks = 64;

}  // namespace

Candidates::Candidates(size_t n_vocab) {
  ranked_.reserve(n_vocab);
  block_max_.reserve(n_vocab / kMaxBlock + 1);
  scratch_.reserve(n_vocab);
}

void Candidates::reset(std::span<const float> row) {
  row_ = row;
  n_kept_ = row.size();
  ranked_.clear();
  block_max_.clear();
}

void Candidates::reset(std::span<const Candidate> ranks, std::span<const int32_t> banned) {
  reset({});
  for (const Candidate& rank : ranks) {
    if (std::find(banned.begin(), banned.end(), rank.id) == banned.end()) ranked_.push_back(rank);
  }
  n_kept_ = ranked_.size();
}

void Candidates::keep_first(size_t n) { n_kept_ = std::clamp<size_t>(n, 1, n_kept_); }

const Candidate& Candidates::ranked(size_t rank) {
  if (rank >= ranked_.size()) rank_at_least(rank + 1);
  return ranked_[rank];
}

double Candidates::mass(double temperature) {
  const float best = ranked(0).logit;
  std::span<const float> kept = row_;
  if (n_kept_ != row_.size()) {
    rank_at_least(n_kept_);
    scratch_.clear();
    for (size_t i = 0; i < n_kept_; ++i) scratch_.push_back(ranked_[i].logit);
    kept = scratch_;
  }
  return kernels().sum_of_exponentials(kept.data(), kept.size(), best, temperature);
}

// Grows the ranked prefix by factors, so that a walk of n ranks costs O(row * log n) at most.
void Candidates::rank_at_least(size_t n) {
  if (n <= ranked_.size()) return;
  n = std::min(row_.size(), std::max({n, kFirstRanks, 4 * ranked_.size()}));
  ranked_.clear();
  collect_from_blocks(n);
  if (ranked_.size() > n) {
    const auto nth = ranked_.begin() + static_cast<std::ptrdiff_t>(n);
    std::nth_element(ranked_.begin(), nth, ranked_.end(), ranks_before);
    ranked_.resize(n);
  }
  std::sort(ranked_.begin(), ranked_.end(), ranks_before);
}

// Fills ranked_ with a superset of the first n ranks, unordered. The n-th largest of the blocks'
// maxima bounds the n-th largest logit from below, so whole blocks are skipped.
void Candidates::collect_from_blocks(size_t n) {
  const size_t n_blocks = (row_.size() + kMaxBlock - 1) / kMaxBlock;
  if (block_max_.empty()) {
    for (size_t begin = 0; begin < row_.size(); begin += kMaxBlock) {
      const auto block = row_.subspan(begin, std::min(kMaxBlock, row_.size() - begin));
      float best = block[0];
      for (float logit : block) best = logit > best ? logit : best;
      block_max_.push_back(best);
    }
  }
  const bool is_bounded = n <= n_blocks;
  float bound = 0;
  if (is_bounded) {
    scratch_.assign(block_max_.begin(), block_max_.end());
    const auto nth = scratch_.begin() + static_cast<std::ptrdiff_t>(n - 1);
    std::nth_element(scratch_.begin(), nth, scratch_.end(), std::greater<float>());
    bound = *nth;
  }
  for (size_t block = 0; block < n_blocks; ++block) {
    if (is_bounded && block_max_[block] < bound) continue;
    const size_t end = std::min((block + 1) * kMaxBlock, row_.size());
    for (size_t i = block * kMaxBlock; i < end; ++i) {
      if (!is_bounded || row_[i] >= bound) {
        ranked_.push_back({row_[i], static_cast<int32_t>(i)});
      }
    }
  }
}

}  // namespace smallmind
