#include "kernels/simd_neon.h"
#include "kernels/table.h"

namespace smallmind {

extern const Kernels kKernelsNeon;
const Kernels kKernelsNeon = kernel::make_table<simd::Neon>("neon");

}  // namespace smallmind
