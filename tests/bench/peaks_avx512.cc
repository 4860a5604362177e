#include "kernels/simd_avx512.h"
#include "peaks_isa.h"

namespace smallmind::bench {

extern const Peaks kPeaksAvx512;
const Peaks kPeaksAvx512 = make_peaks<simd::Avx512>("avx512");

}  // namespace smallmind::bench
