// The products of simd_avx2_vnni.h with AVX-512's encoding of the same instruction, which more
// machines run: only the encoding of the real table is left untested where AVX-VNNI is missing.
#include "kernels/coarse.h"
#include "kernels/simd_avx2_vnni.h"

namespace smallmind {
namespace {

struct Evex : simd::Avx2Vnni {
  using SignedFine = Evex;
  using Coarse = Evex;
};

}  // namespace

extern const decltype(Kernels::matmul) kMatmulAvx2VnniEvex;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2VnniEvex;
const decltype(Kernels::matmul) kMatmulAvx2VnniEvex = kernel::matmul<Evex>;
const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2VnniEvex = kernel::coarse_maxima<Evex>;

}  // namespace smallmind
