// Folds the parts of an attention whose pieces were computed apart (kernels.h, part_floats), in the
// order of the pieces: numerics.md, "Attention".
#pragma once

#include "kernels/attention.h"

namespace smallmind::kernel {

// Of the parts so far.
struct RunningSum {
  float best;
  float sum;
};

// The factors of up to 16 parts in a row.
struct PartFactors {
  alignas(64) float keep[kLanes];
  alignas(64) float gain[kLanes];
};

// The running maximum and sum of a query over the parts so far, and the factors of the next n.
template <class S>
inline PartFactors fold_part_sums(const float* parts, size_t stride, size_t n,
                                  RunningSum& running) {
  PartFactors f = {};
  for (size_t i = 0; i < n; ++i) {
    const float found = parts[i * stride];
    const float best = found > running.best ? found : running.best;
    f.keep[i] = running.best - best;
    f.gain[i] = found - best;
    running.best = best;
  }
  S::store(f.keep, exp<S>(S::load(f.keep)));
  S::store(f.gain, exp<S>(S::load(f.gain)));
  for (size_t i = 0; i < n; ++i)
    running.sum = __builtin_fmaf(parts[i * stride + 1], f.gain[i], running.sum * f.keep[i]);
  return f;
}

template <class S>
void fold_parts(const float* parts, size_t n, size_t head_dim, float* out) {
  const size_t stride = part_floats(head_dim);
  RunningSum running{parts[0], parts[1]};
  for (size_t i = 0; i < head_dim; i += kLanes) S::store(out + i, S::load(parts + kLanes + i));
  for (size_t first = 1; first < n; first += kLanes) {
    const size_t few = n - first < kLanes ? n - first : kLanes;
    const float* next = parts + first * stride;
    const PartFactors f = fold_part_sums<S>(next, stride, few, running);
    for (size_t i = 0; i < head_dim; i += kLanes) {
      auto sum = S::load(out + i);
      for (size_t p = 0; p < few; ++p)
        sum = S::fma(S::load(next + p * stride + kLanes + i), S::set1(f.gain[p]),
                     S::mul(sum, S::set1(f.keep[p])));
      S::store(out + i, sum);
    }
  }
  const auto total = S::set1(running.sum);
  for (size_t i = 0; i < head_dim; i += kLanes) S::store(out + i, S::div(S::load(out + i), total));
}

}  // namespace smallmind::kernel
