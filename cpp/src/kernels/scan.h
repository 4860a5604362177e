// Kernels that look through a long row of logits.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

template <class S>
bool all_finite(const float* x, size_t n) {
  // Magnitudes order like their bits, infinity and NaN above all others.
  constexpr int32_t kInfinity = 0x7f800000;
  auto most = S::ints_set1(0);
  for (size_t i = 0; i < n; i += 16)
    most = S::max_ints(S::as_ints(S::abs(load_partial<S>(x + i, n - i, 0.0f))), most);
  return S::max_lane(most) < kInfinity;
}

// Block by block, so that only the best block is looked through one by one.
template <class S>
size_t highest(const float* x, size_t n) {
  constexpr size_t kBlock = 1024;
  size_t best_block = 0;
  float best = -__builtin_inff();
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t end = begin + kBlock < n ? begin + kBlock : n;
    auto most = S::set1(-__builtin_inff());
    for (size_t i = begin; i < end; i += 16)
      most = S::max(load_partial<S>(x + i, end - i, -__builtin_inff()), most);
    const float value = max_lanes<S>(most);
    if (value > best) {
      best = value;
      best_block = begin;
    }
  }
  size_t at = best_block;
  while (x[at] != best) ++at;
  return at;
}

template <class S>
void maxima(const float* x, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 16)
    out[i / 16] = max_lanes<S>(load_partial<S>(x + i, n - i, -__builtin_inff()));
}

}  // namespace smallmind::kernel
