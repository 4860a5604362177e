#include "kernels/attention.h"
#include "kernels/coarse.h"
#include "kernels/matmul.h"
#include "kernels/simd_avx512_bf16.h"

namespace smallmind {

extern const decltype(Kernels::matmul) kMatmulAvx512Bf16;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx512Bf16;
extern const decltype(Kernels::attention) kAttentionAvx512Bf16;
const decltype(Kernels::matmul) kMatmulAvx512Bf16 = kernel::matmul<simd::Avx512Bf16>;
const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx512Bf16 =
    kernel::coarse_maxima<simd::Avx512Bf16>;
const decltype(Kernels::attention) kAttentionAvx512Bf16 = kernel::attention<simd::Avx512Bf16>;

}  // namespace smallmind
