#include "serving/cost_model.h"

#include <algorithm>

namespace smallmind {
namespace {

constexpr double kFading = 0.9;
constexpr double kLeastPerToken = 1e-7;  // seconds
constexpr double kMostChoosing = 0.1;    // seconds; more is the system's doing

}  // namespace

void CostModel::observe(int64_t n_tokens, double sum_of_contexts, double seconds) noexcept {
  if (n_tokens < 16) return;
  const double n = static_cast<double>(n_tokens);
  nn_ = kFading * nn_ + n * n;
  nc_ = kFading * nc_ + n * sum_of_contexts;
  cc_ = kFading * cc_ + sum_of_contexts * sum_of_contexts;
  nt_ = kFading * nt_ + n * seconds;
  ct_ = kFading * ct_ + sum_of_contexts * seconds;
  const double determinant = nn_ * cc_ - nc_ * nc_;
  // Steps of one shape cannot tell the two costs apart: all goes to the tokens then.
  if (determinant > 1e-3 * nn_ * cc_) {
    cost_.per_token = (nt_ * cc_ - ct_ * nc_) / determinant;
    cost_.per_context = (nn_ * ct_ - nc_ * nt_) / determinant;
  } else {
    cost_.per_token = (nt_ - cost_.per_context * nc_) / nn_;
  }
  if (cost_.per_context < 0) {
    cost_.per_context = 0;
    cost_.per_token = nt_ / nn_;
  }
  cost_.per_token = std::max(cost_.per_token, kLeastPerToken);
}

void CostModel::observe_choosing(double seconds) noexcept {
  cost_.choosing_seconds =
      kFading * cost_.choosing_seconds + (1 - kFading) * std::min(seconds, kMostChoosing);
}

}  // namespace smallmind
