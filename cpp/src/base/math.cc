#include "base/math.h"

#include <bit>
#include <cstdint>
#include <limits>

namespace smallmind {
namespace {

// Rounds to the nearest integer, ties to even. REQUIRES: |x| < 2^51.
double round_even(double x) {
  constexpr double kMagic = 0x1.8p52;
  return (x + kMagic) - kMagic;
}

// ln 2 in two parts: the first has 21 trailing zero bits, so that n * part is exact for |n| < 2^21.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

// pi / 2 in three parts of 30 leading bits each, so that n * part is exact for |n| < 2^23; the rest
// is in the third.
constexpr double kHalfPi1 = 0x1.921fb54p+0;
constexpr double kHalfPi2 = 0x1.10b46118p-30;
constexpr double kHalfPi3 = 0x1.313198a2e037p-61;

// sum of x^k / k!, k = 0 ... 13, by Horner's rule. REQUIRES: |x| <= 0.35.
double exp_taylor(double x) {
  double sum = 1.0;
  for (int k = 13; k >= 1; --k) sum = 1.0 + x * sum / k;
  return sum;
}

}  // namespace

double exp_portable(double x) {
  if (x != x) return x;
  if (x < -708.0) return 0.0;
  if (x > 709.0) return std::numeric_limits<double>::infinity();
  const double n = round_even(x * 0x1.71547652b82fep+0);
  const double r = (x - n * kLn2High) - n * kLn2Low;
  const auto exponent = static_cast<int64_t>(n);
  const double scale = std::bit_cast<double>((exponent + 1023) << 52);
  return exp_taylor(r) * scale;
}

double log_portable(double x) {
  const auto bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
  if (m > 0x1.6a09e667f3bcdp+0) {  // above sqrt(2): halve, so that |m - 1| stays small
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 atanh s, s = (m - 1) / (m + 1), |s| <= 0.172.
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double sum = 0.0;
  for (int k = 25; k >= 3; k -= 2) sum = (sum + 1.0 / k) * s2;
  const auto n = static_cast<double>(exponent);
  return n * kLn2High + (n * kLn2Low + (2.0 * s + 2.0 * s * sum));
}

SinCos sin_cos_portable(double x) {
  const double n = round_even(x * 0x1.45f306dc9c883p-1);
  const double r = ((x - n * kHalfPi1) - n * kHalfPi2) - n * kHalfPi3;
  const double r2 = r * r;
  double s = 1.0;
  for (int k = 18; k >= 2; k -= 2) s = 1.0 - r2 * s / (k * (k + 1.0));
  double c = 1.0;
  for (int k = 19; k >= 1; k -= 2) c = 1.0 - r2 * c / (k * (k + 1.0));
  s *= r;
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

}  // namespace smallmind
