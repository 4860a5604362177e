#include "kernels/attention.h"
#include "kernels/coarse.h"
#include "kernels/dispatch.h"
#include "kernels/matmul.h"
#include "kernels/simd_avx512_bf16.h"

namespace smallmind {

extern const OwnKernels kOwnAvx512Bf16;
const OwnKernels kOwnAvx512Bf16 = {kernel::matmul<simd::Avx512Bf16>,
                                   kernel::coarse_maxima<simd::Avx512Bf16>,
                                   kernel::attention<simd::Avx512Bf16>};

}  // namespace smallmind
