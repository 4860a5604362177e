// The instruction sets of this machine, for tests that compare them.
#pragma once

#include <vector>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace smallmind {

inline std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
  for (const char* name :
       {"generic", "avx2", "avx2_vnni", "avx512", "avx512_bf16", "avx512_amx", "neon"})
    if (const Kernels* table = kernels_by_name(name)) found.push_back(table);
  return found;
}

#if defined(__x86_64__)
extern const OwnKernels kOwnAvx512Bf16;
extern const OwnKernels kOwnAvx512Bf16OneDot;
#endif

// The same for tests of products: AVX-512 with bfloat16 has two shapes of them, and a machine one.
inline std::vector<Kernels> available_products() {
  std::vector<Kernels> found;
  for (const Kernels* table : available_kernels()) found.push_back(*table);
#if defined(__x86_64__)
  if (const Kernels* table = kernels_by_name("avx512_bf16")) {
    const bool has_one_dot = table->matmul == kOwnAvx512Bf16OneDot.matmul;
    const OwnKernels& other = has_one_dot ? kOwnAvx512Bf16 : kOwnAvx512Bf16OneDot;
    found.push_back(*table);
    found.back().name = "avx512_bf16 of other processors";
    found.back().matmul = other.matmul;
    found.back().coarse_maxima = other.coarse_maxima;
  }
#endif
  return found;
}

}  // namespace smallmind
