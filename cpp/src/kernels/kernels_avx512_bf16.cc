#include "kernels/attention.h"
#include "kernels/simd_avx512_bf16.h"

namespace smallmind {

extern void (*const kAttentionAvx512Bf16)(const AttentionTile& tile);
void (*const kAttentionAvx512Bf16)(const AttentionTile& tile) = kernel::attention<simd::Avx512Bf16>;

}  // namespace smallmind
