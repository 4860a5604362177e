#include "kernels/coarse.h"
#include "kernels/simd_avx2_vnni.h"

namespace smallmind {

extern const decltype(Kernels::matmul) kMatmulAvx2Vnni;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2Vnni;
const decltype(Kernels::matmul) kMatmulAvx2Vnni = kernel::matmul<simd::Avx2Vnni>;
const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2Vnni =
    kernel::coarse_maxima<simd::Avx2Vnni>;

}  // namespace smallmind
