#include "kernels/simd_avx2.h"
#include "peaks_isa.h"

namespace smallmind::bench {

extern const Peaks kPeaksAvx2;
const Peaks kPeaksAvx2 = make_peaks<simd::Avx2>("avx2");

}  // namespace smallmind::bench
