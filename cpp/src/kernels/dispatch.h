// The tables of kernels that this build has, for dispatch.cc. One source for each kind of processor
// defines it (dispatch_x86.cc, dispatch_arm.cc), for they are asked in different ways.
#pragma once

#include <span>

#include "kernels/kernels.h"

namespace smallmind {

// What a set of AVX-512 does in its own way; all else is AVX-512's.
struct OwnKernels {
  decltype(Kernels::matmul) matmul;
  decltype(Kernels::coarse_maxima) coarse_maxima;
  decltype(Kernels::attention) attention;
};

struct KernelChoice {
  const Kernels* table;
  // Whether the processor has what it needs and the operating system saves it. Asks the system
  // where that is necessary. Thread-safe.
  bool (*is_available)();
};

// THE LIST, best first, the portable one last. A new instruction set is one simd header, one
// 10-line source and one row of it. Thread-safe.
std::span<const KernelChoice> kernel_choices();

}  // namespace smallmind
