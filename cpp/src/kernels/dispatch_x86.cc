#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/dispatch.h"

namespace smallmind {

extern const Kernels kKernelsGeneric;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
extern const decltype(Kernels::matmul) kMatmulAvx2Vnni;
extern const decltype(Kernels::coarse_maxima) kCoarseMaximaAvx2Vnni;
extern const OwnKernels kOwnAvx512Bf16;
extern const OwnKernels kOwnAvx512Bf16OneDot;
extern const OwnKernels kOwnAvx512Amx;

namespace {

// What the processor has and the operating system saves.
struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA, F16C
  bool avx2_vnni = false;    // those and AVX-VNNI
  bool avx512 = false;       // those of avx2 and AVX-512 F, BW, DQ, VL, VNNI
  bool avx512_bf16 = false;  // those and AVX-512 BF16
  bool avx512_amx = false;   // those, AMX TILE and INT8
  bool is_intel = false;
};

// The system saves the tile registers only of a process that has asked for them. The answer is its
// own for as long as it lives; what it starts by exec asks anew.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

CpuFeatures detect() {
  CpuFeatures found;
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return found;
  found.is_intel = b == signature_INTEL_ebx;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool has_osxsave = c >> 27 & 1, has_fma = c >> 12 & 1, has_f16c = c >> 29 & 1;
  if (!has_osxsave) return found;
  unsigned state_low, state_high;
  __asm__ volatile("xgetbv" : "=a"(state_low), "=d"(state_high) : "c"(0));
  const bool saves_ymm = (state_low & 0x6) == 0x6, saves_zmm = (state_low & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = saves_ymm && has_fma && has_f16c && (b >> 5 & 1);
  const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1,
             vnni = c >> 11 & 1;
  found.avx512 = found.avx2 && saves_zmm && f && dq && bw && vl && vnni;
  const bool saves_tiles = (state_low & 0x60000) == 0x60000, tiles = d >> 24 & 1,
             tile_int8 = d >> 25 & 1;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return found;
  found.avx2_vnni = found.avx2 && (a >> 4 & 1);
  found.avx512_bf16 = found.avx512 && (a >> 5 & 1);
  found.avx512_amx = found.avx512_bf16 && saves_tiles && tiles && tile_int8;
  return found;
}

const CpuFeatures& cpu() {
  static const CpuFeatures found = detect();
  return found;
}

// A table with some kernels of its own; change(table) sets them.
template <class Change>
Kernels changed(Kernels table, const char* name, const Change& change) {
  table.name = name;
  change(table);
  return table;
}

void take(Kernels& table, const OwnKernels& own) {
  table.matmul = own.matmul;
  table.coarse_maxima = own.coarse_maxima;
  table.attention = own.attention;
}

// AVX-512's table with what tile registers are better at.
const Kernels& avx512_amx_table() {
  static const Kernels table = changed(kKernelsAvx512, "avx512_amx", [](Kernels& own) {
    take(own, kOwnAvx512Amx);
    own.least_part_tokens = SIZE_MAX;  // weights are unpacked for as many tokens as there are
  });
  return table;
}

// AVX-512's table with bfloat16 dots, and products in AMD's shapes (simd_avx512_bf16.h). No bit
// tells how many dots of 512 bits a processor takes in a cycle; of AMD's, those that take two (Zen
// 5) have AVX-VNNI, too.
const Kernels& avx512_bf16_table() {
  static const Kernels table = changed(kKernelsAvx512, "avx512_bf16", [](Kernels& own) {
    take(own, cpu().avx2_vnni ? kOwnAvx512Bf16 : kOwnAvx512Bf16OneDot);
  });
  return table;
}

// AVX2's table with the products that have byte dots.
const Kernels& avx2_vnni_table() {
  static const Kernels table = changed(kKernelsAvx2, "avx2_vnni", [](Kernels& own) {
    own.matmul = kMatmulAvx2Vnni;
    own.coarse_maxima = kCoarseMaximaAvx2Vnni;
    own.coarse_limit = 127;
  });
  return table;
}

}  // namespace

std::span<const KernelChoice> kernel_choices() {
  // On Intel's processors a dot of bfloat16 pairs takes at least as long as the two multiplications
  // that it stands for, and the products that come with it have AMD's shapes.
  static const KernelChoice pair_dots = {&avx512_bf16_table(), [] { return cpu().avx512_bf16; }};
  static const KernelChoice no_pair_dots = {&kKernelsAvx512, [] { return cpu().avx512; }};
  static const KernelChoice choices[] = {
      {&avx512_amx_table(), [] { return cpu().avx512_amx && may_use_tiles(); }},
      cpu().is_intel ? no_pair_dots : pair_dots,
      cpu().is_intel ? pair_dots : no_pair_dots,
      {&avx2_vnni_table(), [] { return cpu().avx2_vnni; }},
      {&kKernelsAvx2, [] { return cpu().avx2; }},
      {&kKernelsGeneric, [] { return true; }}};
  return choices;
}

}  // namespace smallmind
