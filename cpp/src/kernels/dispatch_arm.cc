#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "kernels/dispatch.h"

namespace smallmind {

extern const Kernels kKernelsGeneric;
extern const Kernels kKernelsNeon;

std::span<const KernelChoice> kernel_choices() {
  static const KernelChoice choices[] = {
      {&kKernelsNeon, [] { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }},
      {&kKernelsGeneric, [] { return true; }}};
  return choices;
}

}  // namespace smallmind
