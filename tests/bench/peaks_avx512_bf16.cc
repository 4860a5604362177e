#include "kernels/simd_avx512_bf16.h"
#include "peaks_isa.h"

namespace smallmind::bench {

extern const Peaks kPeaksAvx512Bf16;
const Peaks kPeaksAvx512Bf16 = make_peaks<simd::Avx512Bf16>("avx512_bf16");

}  // namespace smallmind::bench
