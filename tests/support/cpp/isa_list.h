// The instruction sets of this machine, for tests that compare them.
#pragma once

#include <vector>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace smallmind {

#if defined(__x86_64__)
extern const OwnKernels kOwnAvx512Bf16;
extern const OwnKernels kOwnAvx512Bf16OneDot;

// The products that the table has on other processors of its kind.
inline const Kernels* other_avx512_bf16() {
  static const Kernels other = [] {
    Kernels table = *kernels_by_name("avx512_bf16");
    const bool has_one_dot = table.matmul == kOwnAvx512Bf16OneDot.matmul;
    const OwnKernels& own = has_one_dot ? kOwnAvx512Bf16 : kOwnAvx512Bf16OneDot;
    table.name = has_one_dot ? "avx512_bf16, two dots a cycle" : "avx512_bf16, one dot a cycle";
    table.matmul = own.matmul;
    table.coarse_maxima = own.coarse_maxima;
    return table;
  }();
  return &other;
}
#endif

inline std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
  for (const char* name :
       {"generic", "avx2", "avx2_vnni", "avx512", "avx512_bf16", "avx512_amx", "neon"})
    if (const Kernels* table = kernels_by_name(name)) found.push_back(table);
#if defined(__x86_64__)
  if (kernels_by_name("avx512_bf16") != nullptr) found.push_back(other_avx512_bf16());
#endif
  return found;
}

}  // namespace smallmind
