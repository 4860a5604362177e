#include "kernels/attention.h"
#include "kernels/coarse.h"
#include "kernels/dispatch.h"
#include "kernels/matmul.h"
#include "kernels/simd_avx512_bf16.h"

namespace smallmind {

extern const OwnKernels kOwnAvx512Bf16;
extern const OwnKernels kOwnAvx512Bf16OneDot;
const OwnKernels kOwnAvx512Bf16 = {kernel::matmul<simd::Avx512Bf16>,
                                   kernel::coarse_maxima<simd::Avx512Bf16>,
                                   kernel::attention<simd::Avx512Bf16>};
// For processors that take one dot of 512 bits a cycle: loads are not the bound there.
const OwnKernels kOwnAvx512Bf16OneDot = {kernel::matmul<simd::Avx512Bf16, false>,
                                         kernel::coarse_maxima<simd::Avx512Bf16, false>,
                                         kernel::attention<simd::Avx512Bf16>};

}  // namespace smallmind
