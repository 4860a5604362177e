// Kernels over one token's row: norm, rotation, activation.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

template <class S>
void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
  auto squares = S::set1(0.0f);
  for (size_t i = 0; i < n; i += 16) {
    const auto v = load_partial<S>(x + i, n - i, 0.0f);
    squares = S::fma(v, v, squares);
  }
  const float mean = sum_lanes<S>(squares) / static_cast<float>(n);
  const auto inverse = S::set1(1.0f / __builtin_sqrtf(mean + eps));
  for (size_t i = 0; i < n; i += 16) {
    const auto v = S::mul(load_partial<S>(x + i, n - i, 0.0f), inverse);
    store_partial<S>(out + i, n - i, S::mul(v, load_partial<S>(weight + i, n - i, 0.0f)));
  }
}

template <class S>
void gated(Activation activation, float* gate, const float* up, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const auto g = load_partial<S>(gate + i, n - i, 0.0f);
    const auto active = activation == Activation::kSilu ? silu<S>(g) : gelu_tanh<S>(g);
    store_partial<S>(gate + i, n - i, S::mul(active, load_partial<S>(up + i, n - i, 0.0f)));
  }
}

template <class S>
void add(float* x, const float* y, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    store_partial<S>(
        x + i, n - i,
        S::add(load_partial<S>(x + i, n - i, 0.0f), load_partial<S>(y + i, n - i, 0.0f)));
}

template <class S>
void scale(float* x, float factor, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    store_partial<S>(x + i, n - i, S::mul(load_partial<S>(x + i, n - i, 0.0f), S::set1(factor)));
}

template <class S>
void softcap(float* x, float cap, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const auto v = S::div(load_partial<S>(x + i, n - i, 0.0f), S::set1(cap));
    store_partial<S>(x + i, n - i, S::mul(S::set1(cap), tanh<S>(v)));
  }
}

// Plain scalars: four rounded products and two rounded sums a pair, the same bits however the
// compiler vectorises it.
template <class S>
void rope(Rope kind, float* __restrict head, size_t n_rot, const float* __restrict cos,
          const float* __restrict sin) {
  const size_t half = n_rot / 2;
  const auto turn = [&](float& a, float& b, size_t i) {
    const float x = a, y = b;
    a = x * cos[i] - y * sin[i];
    b = x * sin[i] + y * cos[i];
  };
  if (kind == Rope::kAdjacent)
    for (size_t i = 0; i < half; ++i) turn(head[2 * i], head[2 * i + 1], i);
  else
    for (size_t i = 0; i < half; ++i) turn(head[i], head[half + i], i);
}

template <class S>
void round_bf16_row(float* x, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    store_partial<S>(x + i, n - i, round_bf16<S>(load_partial<S>(x + i, n - i, 0.0f)));
}

}  // namespace smallmind::kernel
