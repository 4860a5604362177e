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
        scales_(values_.size() / 32 + 1),
        scaled_sums_(scales_.size()),
        half_sums_(2 * scales_.size()),
        sums_(scales_.size()),
        n_columns_(n_columns) {}
  Activations view() {
    return {values_.data(),    codes_.data(), scales_.data(), scaled_sums_.data(),
            half_sums_.data(), sums_.data(),  n_columns_};
  }

 private:
  std::vector<float> values_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_, scaled_sums_;
  std::vector<int32_t> half_sums_, sums_;
  size_t n_columns_;
};

}  // namespace smallmind
