#include "kernels/matmul.h"
#include "kernels/simd_avx2_vnni.h"

namespace smallmind {

extern const decltype(Kernels::matmul) kMatmulAvx2Vnni;
const decltype(Kernels::matmul) kMatmulAvx2Vnni = kernel::matmul<simd::Avx2Vnni>;

}  // namespace smallmind
