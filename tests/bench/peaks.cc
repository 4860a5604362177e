#include "peaks.h"

#include <string_view>

namespace smallmind::bench {

extern const Peaks kPeaksAvx2;
extern const Peaks kPeaksAvx2Vnni;
extern const Peaks kPeaksAvx512;
extern const Peaks kPeaksAvx512Bf16;

// (Kernels with tile registers are held to AVX-512's instructions, as all others are: the peak of a
// tile's dots, a power of ten away, is out of reach where scales change every 32 columns.)
const Peaks* peaks_of(const char* isa) {
  if (std::string_view(isa) == "avx512_amx") return &kPeaksAvx512;
  for (const Peaks* peaks : {&kPeaksAvx2, &kPeaksAvx2Vnni, &kPeaksAvx512, &kPeaksAvx512Bf16})
    if (std::string_view(isa) == peaks->isa) return peaks;
  return nullptr;
}

}  // namespace smallmind::bench
