// THE LIST of weight formats. A new format is one header and one name here; kernels and tests
// follow the list.
#pragma once

#include "quant/bf16.h"
#include "quant/f16.h"
#include "quant/f32.h"
#include "quant/q4_0.h"
#include "quant/q4_1.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

namespace smallmind::quant {

template <class... Fs>
struct FormatList {
  static constexpr size_t kSize = sizeof...(Fs);
  // Calls fn.template operator()<F>() for the format with this type; false when there is none.
  template <class Fn>
  static bool visit(gguf::TensorType type, const Fn& fn) {
    return ((Fs::kType == type ? (fn.template operator()<Fs>(), true) : false) || ...);
  }
  template <class Fn>
  static void for_each(const Fn& fn) {
    (fn.template operator()<Fs>(), ...);
  }
};

using Formats = FormatList<F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K>;

}  // namespace smallmind::quant
