#include "kernels/simd_avx2_vnni.h"
#include "peaks_isa.h"

namespace smallmind::bench {

extern const Peaks kPeaksAvx2Vnni;
const Peaks kPeaksAvx2Vnni = make_peaks<simd::Avx2Vnni>("avx2_vnni");

}  // namespace smallmind::bench
