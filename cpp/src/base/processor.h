// What the core asks of the processor itself, for each kind that it is built for; the instruction
// sets of the kernels aside (kernels/dispatch.h). Any thread; all of it concerns the calling one.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#error "smallmind knows x86-64 and aarch64 only"
#endif

namespace smallmind {

#if defined(__x86_64__)

// MXCSR: round to nearest, subnormals are numbers, no traps.
inline constexpr uint32_t kStandardFloatControl = 0x1F80;
// What code built with fast-math sets: subnormal results and operands become zero.
inline constexpr uint32_t kFlushesSubnormals = 0x8040;

inline uint32_t float_control() noexcept { return _mm_getcsr() & ~0x3Fu; }  // less sticky flags
inline void set_float_control(uint32_t value) noexcept { _mm_setcsr(value); }
// One turn of a loop that waits for another thread's write.
inline void spin_pause() noexcept { _mm_pause(); }

#else

// FPCR: round to nearest, subnormals are numbers, no traps.
inline constexpr uint32_t kStandardFloatControl = 0;
inline constexpr uint32_t kFlushesSubnormals = 1u << 24;

inline uint32_t float_control() noexcept {
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return static_cast<uint32_t>(value);
}
inline void set_float_control(uint32_t value) noexcept {
  __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{value}));
}
// (`yield` passes at once on most processors; `isb` takes about as long as x86's pause.)
inline void spin_pause() noexcept { __asm__ volatile("isb" : : : "memory"); }

#endif

}  // namespace smallmind
