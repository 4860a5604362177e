// Elementwise functions on logical vectors of 16 floats: the same operations in the same order on
// every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smallmind::kernel {

// Rounds to the nearest integer, ties to even. REQUIRES: |x| < 2^22.
template <class S>
inline typename S::Vec round_even(typename S::Vec x) {
  if constexpr (requires { S::round_even(x); }) return S::round_even(x);
  const auto magic = S::set1(0x1.8p23f);
  return S::sub(S::add(x, magic), magic);
}

// e^x. REQUIRES: x in [-87, 88] or NaN, which gives NaN. Error under 2 units in the last place.
template <class S>
[[gnu::always_inline]] inline typename S::Vec exp_in_range(typename S::Vec x) {
  const auto n = round_even<S>(S::mul(x, S::set1(0x1.715476p+0f)));
  auto r = S::fma(n, S::set1(-0x1.62e400p-1f), x);
  r = S::fma(n, S::set1(-0x1.7f7d1cp-20f), r);
  // Taylor's series to r^7, |r| <= 0.347.
  auto sum = S::set1(1.0f / 5040.0f);
  sum = S::fma(sum, r, S::set1(1.0f / 720.0f));
  sum = S::fma(sum, r, S::set1(1.0f / 120.0f));
  sum = S::fma(sum, r, S::set1(1.0f / 24.0f));
  sum = S::fma(sum, r, S::set1(1.0f / 6.0f));
  sum = S::fma(sum, r, S::set1(0.5f));
  sum = S::fma(sum, r, S::set1(1.0f));
  sum = S::fma(sum, r, S::set1(1.0f));
  return S::times_power_of_2(sum, n);
}

// e^x for x clamped to at most 88; below -87 the result is 0. NaN gives NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Vec exp(typename S::Vec x) {
  const auto clamped = S::min(
      S::set1(88.0f), S::max(S::set1(-87.0f), x));  // a NaN passes both: the second operand wins
  return S::select_less(x, S::set1(-87.0f), S::set1(0.0f), exp_in_range<S>(clamped));
}

// What exp gives once it is rounded to bfloat16, which writes all below 2^-56 as 0. REQUIRES: x <=
// 0 or NaN.
template <class S>
inline typename S::Vec exp_for_bf16(typename S::Vec x) {
  return exp_in_range<S>(S::max(S::set1(-87.0f), x));
}

// x / (1 + e^-x)
template <class S>
inline typename S::Vec silu(typename S::Vec x) {
  const auto one = S::set1(1.0f);
  return S::div(x, S::add(one, exp<S>(S::negate(x))));
}

// tanh x = 1 - 2 / (e^2x + 1); absolute error under 2^-22.
template <class S>
inline typename S::Vec tanh(typename S::Vec x) {
  const auto one = S::set1(1.0f);
  return S::sub(one, S::div(S::set1(2.0f), S::add(exp<S>(S::add(x, x)), one)));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), written as x * sigmoid(2 y).
template <class S>
inline typename S::Vec gelu_tanh(typename S::Vec x) {
  const auto cubic = S::fma(S::mul(x, x), S::set1(0.044715f), S::set1(1.0f));
  const auto y2 = S::mul(S::mul(S::set1(0x1.988454p+0f), x), cubic);  // 2 sqrt(2 / pi)
  return S::div(x, S::add(S::set1(1.0f), exp<S>(S::negate(y2))));
}

// The value that bfloat16 keeps: nearest, ties to even; magnitudes below 2^-56 become 0, so that no
// product of two is subnormal. NaN stays NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Vec round_bf16(typename S::Vec x) {
  const auto bits = S::as_ints(x);
  const auto odd = S::and_ints(S::template shift_right<16>(bits), S::ints_set1(1));
  const auto up = S::add_ints(S::add_ints(bits, odd), S::ints_set1(0x7fff));
  const auto rounded =
      S::as_floats(S::and_ints(up, S::ints_set1(static_cast<int32_t>(0xffff0000u))));
  const auto magnitude = S::abs(x);
  const auto kept = S::select_less(magnitude, S::set1(0x1p-56f), S::set1(0.0f), rounded);
  // Only a NaN fails both comparisons; x + x is that NaN with its quiet bit set, which the upper
  // half keeps.
  const auto small = S::select_less(magnitude, S::set1(0x1p+127f), kept, S::add(x, x));
  return S::select_less(S::set1(0x1.fffffep+126f), magnitude, rounded, small);
}

// The sum of 16 lanes as a fixed tree: lanes i and i + 8, then + 4, + 2, + 1.
template <class S>
inline float sum_lanes(typename S::Vec x) {
  return S::fold_lanes(x, [](const auto& a, const auto& b) { return S::add(a, b); });
}

template <class S>
inline float max_lanes(typename S::Vec x) {
  return S::fold_lanes(x, [](const auto& a, const auto& b) { return S::max(a, b); });
}

// Row by row what fn makes of the 16 lanes, in that order: row q's in lane q, the lanes behind the
// last row hold anything.
template <class S, size_t kRows, class Fn>
inline typename S::Vec fold_rows(const typename S::Vec (&rows)[kRows], const Fn& fn) {
  if constexpr (requires { S::fold_rows(rows, fn); }) {
    return S::fold_rows(rows, fn);
  } else if constexpr (kRows == 1) {
    return S::set1(S::fold_lanes(rows[0], fn));
  } else {
    alignas(64) float lane[16] = {};
    for (size_t q = 0; q < kRows; ++q) lane[q] = S::fold_lanes(rows[q], fn);
    return S::load(lane);
  }
}

template <class S, size_t kRows>
inline typename S::Vec sum_rows(const typename S::Vec (&rows)[kRows]) {
  return fold_rows<S>(rows, [](const auto& a, const auto& b) { return S::add(a, b); });
}

template <class S, size_t kRows>
inline typename S::Vec max_rows(const typename S::Vec (&rows)[kRows]) {
  return fold_rows<S>(rows, [](const auto& a, const auto& b) { return S::max(a, b); });
}

// Up to 16 floats from p, the missing lanes are `fill`.
template <class S>
inline typename S::Vec load_partial(const float* p, size_t n, float fill) {
  if (n >= 16) return S::load(p);
  alignas(64) float lane[16];
  for (size_t i = 0; i < 16; ++i) lane[i] = i < n ? p[i] : fill;
  return S::load(lane);
}

template <class S>
inline void store_partial(float* p, size_t n, typename S::Vec x) {
  if (n >= 16) return S::store(p, x);
  alignas(64) float lane[16];
  S::store(lane, x);
  for (size_t i = 0; i < n; ++i) p[i] = lane[i];
}

}  // namespace smallmind::kernel
