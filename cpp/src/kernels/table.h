// The kernels of one instruction set as a table.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention_parts.h"
#include "kernels/coarse.h"
#include "kernels/exponentials.h"
#include "kernels/kv_pages.h"
#include "kernels/matmul.h"
#include "kernels/panel_norms.h"
#include "kernels/quantize.h"
#include "kernels/rows.h"
#include "kernels/scan.h"

namespace smallmind::kernel {

// Measured with AVX-512 and two threads on a Zen 5; other sets compute longer for each weight that
// they read.
inline constexpr size_t kLeastPartTokens = 16;

template <class S>
constexpr Kernels make_table(const char* name) {
  return {name,          kLeastPartTokens, coarse_limit<S>(),
          quantize<S>,   quantize_fine<S>, quantize_blocks<S>,
          matmul<S>,     coarse_maxima<S>, rms_norm<S>,
          gated<S>,      add<S>,           scale<S>,
          softcap<S>,    rope<S>,          round_bf16_row<S>,
          store_kv<S>,   attention<S>,     fold_parts<S>,
          all_finite<S>, highest<S>,       sum_of_exponentials<S>,
          maxima<S>,     panel_norms<S>};
}

}  // namespace smallmind::kernel
