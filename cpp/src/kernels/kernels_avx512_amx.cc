#include "kernels/attention.h"
#include "kernels/matmul_amx.h"
#include "kernels/simd_avx512_amx.h"

namespace smallmind {

extern const decltype(Kernels::matmul) kMatmulAvx512Amx;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx512Amx;
extern const decltype(Kernels::attention) kAttentionAvx512Amx;
const decltype(Kernels::matmul) kMatmulAvx512Amx = kernel::matmul_amx<simd::Avx512Amx>;
const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx512Amx =
    kernel::coarse_maxima_amx<simd::Avx512Amx>;
const decltype(Kernels::attention) kAttentionAvx512Amx = kernel::attention<simd::Avx512Amx>;

}  // namespace smallmind
