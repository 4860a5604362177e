// Owns the arrays of an Activations.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace smallmind {

class ActivationBuffer {
 public:
  ActivationBuffer(size_t n_tokens, size_t n_columns)
      : values_(n_tokens * n_columns),
        codes_(values_.size()),
        low_codes_(values_.size()),
        scales_(values_.size() / 32 + 1),
        scaled_sums_(scales_.size()),
        minus_half_sums_(2 * scales_.size()),
        minus_sums_(scales_.size()),
        low_minus_half_sums_(2 * scales_.size()),
        low_minus_sums_(scales_.size()),
        n_columns_(n_columns) {}
  Activations view(bool fine = false) {
    Activations a{values_.data(),          codes_.data(),      scales_.data(), scaled_sums_.data(),
                  minus_half_sums_.data(), minus_sums_.data(), n_columns_};
    if (fine) {
      a.low_codes = low_codes_.data();
      a.low_minus_half_sums = low_minus_half_sums_.data();
      a.low_minus_sums = low_minus_sums_.data();
    }
    return a;
  }

 private:
  std::vector<float> values_;
  std::vector<int8_t> codes_, low_codes_;
  std::vector<float> scales_, scaled_sums_;
  std::vector<int32_t> minus_half_sums_, minus_sums_, low_minus_half_sums_, low_minus_sums_;
  size_t n_columns_;
};

}  // namespace smallmind
