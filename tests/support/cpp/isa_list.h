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
extern const decltype(Kernels::matmul) kMatmulAvx2VnniEvex;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2VnniEvex;
#endif

// The same for tests of products, of kernels_test: AVX-512 with bfloat16 has two shapes of them,
// and a machine one; those of avx2_vnni run in AVX-512's encoding where they do not in their own.
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
  if (kernels_by_name("avx512") != nullptr) {
    found.push_back(*kernels_by_name("avx2"));
    found.back().name = "avx2_vnni in EVEX encoding";
    found.back().matmul = kMatmulAvx2VnniEvex;
    found.back().coarse_maxima = kCoarseMaximaAvx2VnniEvex;
  }
#endif
  return found;
}

}  // namespace smallmind
