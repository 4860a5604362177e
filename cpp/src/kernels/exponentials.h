// Sums of exponentials in double, bit for bit those of base/math.h's exp_portable.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace smallmind::kernel {

// Named by its instruction set, as all functions that more than one could emit.
template <class S>
struct Doubles {
  // 16 lanes, which the compiler maps to what the instruction set has.
  typedef double Vec __attribute__((vector_size(128)));
  typedef int64_t Ints __attribute__((vector_size(128)));

  [[gnu::always_inline]] static Vec load(const float* p) {
    typedef float Floats __attribute__((vector_size(64)));
    Floats x;
    __builtin_memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, Vec);
  }

  // e^x as exp_portable has it. REQUIRES: x <= 0.
  [[gnu::always_inline]] static Vec exp(Vec x) {
    constexpr double kMagic = 0x1.8p52;  // n + this has n in its lowest bits
    const Vec shifted = x * 0x1.71547652b82fep+0 + kMagic;
    const Vec n = shifted - kMagic;
    const Vec r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
    Vec sum = Vec{} + 1.0;
    for (int k = 13; k >= 1; --k) sum = 1.0 + r * sum / static_cast<double>(k);
    const Ints scale = (reinterpret_cast<Ints>(shifted) + 1023) << 52;
    const Vec result = sum * reinterpret_cast<Vec>(scale);
    return reinterpret_cast<Vec>(reinterpret_cast<Ints>(result) & (x >= -708.0));
  }
};

// Blocks of 1,024, in each of which lane i sums every 16th element from i on.
template <class S>
double sum_of_exponentials(const float* x, size_t n, float max, double temperature) {
  using D = Doubles<S>;
  constexpr size_t kBlock = 1024;
  double sum = 0;
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t end = begin + kBlock < n ? begin + kBlock : n;
    typename D::Vec lanes = {};
    for (size_t i = begin; i < end; i += 16) {
      float last[16];
      const float* at = x + i;
      if (end - i < 16) {
        for (size_t j = 0; j < 16; ++j) last[j] = i + j < end ? x[i + j] : -__builtin_inff();
        at = last;
      }
      lanes += D::exp((D::load(at) - static_cast<double>(max)) / temperature);
    }
    double block = 0;
    for (size_t j = 0; j < 16; ++j) block += lanes[j];
    sum += block;
  }
  return sum;
}

}  // namespace smallmind::kernel
