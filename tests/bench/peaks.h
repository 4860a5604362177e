// What the machine can do at best with one instruction set: the bounds that kernels are held to.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smallmind::bench {

struct Peaks {
  const char* isa;
  // Each repeats a block of independent instructions n times, leaves what came of it in sink [16],
  // and returns the operations of one block, a multiplication and an addition counted as two.
  uint64_t (*int8)(size_t n, float* sink);  // the integer dots of 4-bit codes
  uint64_t (*fp32)(size_t n, float* sink);  // fused multiply-adds
  uint64_t (*bf16)(size_t n, float* sink);  // the pair dots of attention
  // Read n_bytes, a multiple of 64, without and with fetching ahead as the products do.
  void (*read)(const std::byte* from, size_t n_bytes, float* sink);
  void (*read_ahead)(const std::byte* from, size_t n_bytes, float* sink);
};

// Null for the generic instruction set, which has no instructions of its own to be held to.
const Peaks* peaks_of(const char* isa);

}  // namespace smallmind::bench
