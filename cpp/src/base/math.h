// Elementary functions in double that give the same bits on every machine: only +, -, *, / and
// integer operations in a fixed order. (The C library's differ in the last bits with and without
// FMA hardware.) Errors are below 4 units in the last place.
#pragma once

namespace smallmind {

double exp_portable(double x);  // 0 below -708, infinity above 709; NaN for NaN
double log_portable(double x);  // REQUIRES: x > 0, finite, normal

struct SinCos {
  double sin;
  double cos;
};
// REQUIRES: |x| < 2^28.
SinCos sin_cos_portable(double x);

}  // namespace smallmind
