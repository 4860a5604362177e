#include "kernels/simd_avx512.h"
#include "kernels/table.h"

namespace smallmind {

extern const Kernels kKernelsAvx512;
const Kernels kKernelsAvx512 = kernel::make_table<simd::Avx512>("avx512");

}  // namespace smallmind
