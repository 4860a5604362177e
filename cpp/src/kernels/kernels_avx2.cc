#include "kernels/simd_avx2.h"
#include "kernels/table.h"

namespace smallmind {

extern const Kernels kKernelsAvx2;
const Kernels kKernelsAvx2 = kernel::make_table<simd::Avx2>("avx2");

}  // namespace smallmind
