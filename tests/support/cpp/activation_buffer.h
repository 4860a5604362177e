// Owns the arrays of an Activations, on cache lines as an engine's, and zeroed.
#pragma once

#include <algorithm>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"

namespace smallmind {

class ActivationBuffer {
 public:
  ActivationBuffer(size_t n_tokens, size_t n_columns)
      : values_(zeroed<float>(n_tokens * n_columns)),
        codes_(zeroed<int8_t>(n_tokens * n_columns)),
        low_codes_(zeroed<int8_t>(n_tokens * n_columns)),
        scales_(zeroed<float>(n_tokens * n_columns / 32)),
        scaled_sums_(zeroed<float>(n_tokens * n_columns / 32)),
        minus_half_sums_(zeroed<int32_t>(n_tokens * n_columns / 16)),
        minus_sums_(zeroed<int32_t>(n_tokens * n_columns / 32)),
        low_minus_half_sums_(zeroed<int32_t>(n_tokens * n_columns / 16)),
        low_minus_sums_(zeroed<int32_t>(n_tokens * n_columns / 32)),
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
  template <class T>
  static AlignedBuffer<T> zeroed(size_t n) {
    AlignedBuffer<T> buffer(n);
    std::fill_n(buffer.data(), n, T{});
    return buffer;
  }

  AlignedBuffer<float> values_;
  AlignedBuffer<int8_t> codes_, low_codes_;
  AlignedBuffer<float> scales_, scaled_sums_;
  AlignedBuffer<int32_t> minus_half_sums_, minus_sums_, low_minus_half_sums_, low_minus_sums_;
  size_t n_columns_;
};

}  // namespace smallmind
