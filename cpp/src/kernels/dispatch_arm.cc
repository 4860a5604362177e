#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "kernels/dispatch.h"

namespace smallmind {

extern const Kernels kKernelsGeneric;
extern const Kernels kKernelsNeon;

std::span<const KernelChoice> kernel_choices() {
  static const bool has_dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  static const KernelChoice choices[] = {{&kKernelsNeon, has_dotprod}, {&kKernelsGeneric, true}};
  return choices;
}

}  // namespace smallmind
