// Arithmetic on numbers that come from a file.
#pragma once

#include <cstdint>
#include <limits>

namespace smallmind {

// An unsigned number that remembers that it wrapped: once an operation has no 64-bit result, every
// result computed from it is invalid too, so that a whole formula is checked by one ok() at its
// end. A value; any thread. Compare and use value() only after ok().
class CheckedU64 {
 public:
  constexpr explicit CheckedU64(uint64_t value) : value_(value) {}

  constexpr bool ok() const { return ok_; }
  constexpr bool ok_at_most(uint64_t limit) const { return ok_ && value_ <= limit; }
  constexpr uint64_t value() const { return value_; }  // REQUIRES: ok()

  friend constexpr CheckedU64 operator+(CheckedU64 a, CheckedU64 b) {
    return {a.ok_ && b.ok_ && a.value_ <= kMax - b.value_, a.value_ + b.value_};
  }
  friend constexpr CheckedU64 operator-(CheckedU64 a, CheckedU64 b) {
    return {a.ok_ && b.ok_ && a.value_ >= b.value_, a.value_ - b.value_};
  }
  friend constexpr CheckedU64 operator*(CheckedU64 a, CheckedU64 b) {
    const bool fits = b.value_ == 0 || a.value_ <= kMax / b.value_;
    return {a.ok_ && b.ok_ && fits, a.value_ * b.value_};
  }
  // Invalid unless the division is exact and by a number other than 0.
  friend constexpr CheckedU64 exact_quotient(CheckedU64 a, CheckedU64 b) {
    const bool exact = b.value_ != 0 && a.value_ % b.value_ == 0;
    return {a.ok_ && b.ok_ && exact, b.value_ == 0 ? 0 : a.value_ / b.value_};
  }
  // The next multiple of `alignment` at or above `a`; invalid for alignment 0.
  friend constexpr CheckedU64 align_up(CheckedU64 a, uint64_t alignment) {
    if (!a.ok_ || alignment == 0) return {false, 0};
    const uint64_t rest = a.value_ % alignment;
    return rest == 0 ? a : a + CheckedU64(alignment - rest);
  }

 private:
  static constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  // An invalid number holds 0, so that no wrapped value can leak through a forgotten check.
  constexpr CheckedU64(bool ok, uint64_t value) : value_(ok ? value : 0), ok_(ok) {}

  uint64_t value_;
  bool ok_ = true;
};

constexpr bool is_power_of_two(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

}  // namespace smallmind
