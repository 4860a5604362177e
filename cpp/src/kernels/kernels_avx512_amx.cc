#include "kernels/attention.h"
#include "kernels/dispatch.h"
#include "kernels/matmul_amx.h"
#include "kernels/simd_avx512_amx.h"

namespace smallmind {

extern const OwnKernels kOwnAvx512Amx;
const OwnKernels kOwnAvx512Amx = {kernel::matmul_amx<simd::Avx512Amx>,
                                  kernel::coarse_maxima_amx<simd::Avx512Amx>,
                                  kernel::attention<simd::Avx512Amx>};

}  // namespace smallmind
