#include "peaks.h"

#include <string_view>

namespace smallmind::bench {

extern const Peaks kPeaksAvx2;
extern const Peaks kPeaksAvx2Vnni;
extern const Peaks kPeaksAvx512;
extern const Peaks kPeaksAvx512Bf16;

const Peaks* peaks_of(const char* isa) {
  for (const Peaks* peaks : {&kPeaksAvx2, &kPeaksAvx2Vnni, &kPeaksAvx512, &kPeaksAvx512Bf16})
    if (std::string_view(isa) == peaks->isa) return peaks;
  return nullptr;
}

}  // namespace smallmind::bench
