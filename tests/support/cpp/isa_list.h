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

}  // namespace smallmind
