#include "kernels/simd_generic.h"
#include "kernels/table.h"

namespace smallmind {

extern const Kernels kKernelsGeneric;
const Kernels kKernelsGeneric = kernel::make_table<simd::Generic>("generic");

}  // namespace smallmind
