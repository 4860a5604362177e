// The products that this machine runs, for tests that compare them.
#pragma once

#include <vector>

#include "isa_list.h"

namespace smallmind {

#if defined(__x86_64__)
extern const OwnKernels kOwnAvx512Bf16;
extern const OwnKernels kOwnAvx512Bf16OneDot;
extern const decltype(Kernels::matmul) kMatmulAvx2VnniEvex;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2VnniEvex;
#endif

// Those of available_kernels(), the other shape that AVX-512 with bfloat16 has, of which a machine
// takes one, and those of avx2_vnni in AVX-512's encoding.
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
    found.back().coarse_limit = 127;
  }
#endif
  return found;
}

}  // namespace smallmind
