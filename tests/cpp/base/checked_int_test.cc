#include "base/checked_int.h"

#include <gtest/gtest.h>

#include <array>

namespace smallmind {
namespace {

constexpr uint64_t kMax = ~uint64_t{0};

// Edges at which 64-bit arithmetic wraps; the expectation is 128-bit arithmetic.
constexpr std::array<uint64_t, 14> kEdges = {
    0,          1,          2,           3,         31,           32,        0x7FFFFFFF,
    0x80000000, 0xFFFFFFFF, 0x100000000, kMax >> 1, kMax / 2 + 1, kMax - 31, kMax};

// G-54 ... G-57: the fix's own arithmetic must not wrap either.
TEST(CheckedU64Test, AgreesWithWiderArithmeticAtTheEdges) {
  for (const uint64_t a : kEdges) {
    for (const uint64_t b : kEdges) {
      const auto sum = static_cast<unsigned __int128>(a) + b;
      const auto product = static_cast<unsigned __int128>(a) * b;
      const CheckedU64 x(a);
      const CheckedU64 y(b);
      EXPECT_EQ((x + y).ok(), sum <= kMax) << a << " + " << b;
      EXPECT_EQ((x * y).ok(), product <= kMax) << a << " * " << b;
      EXPECT_EQ((x - y).ok(), a >= b) << a << " - " << b;
      if ((x + y).ok()) {
        EXPECT_EQ((x + y).value(), static_cast<uint64_t>(sum));
      }
      if ((x * y).ok()) {
        EXPECT_EQ((x * y).value(), static_cast<uint64_t>(product));
      }
      if ((x - y).ok()) {
        EXPECT_EQ((x - y).value(), a - b);
      }
    }
  }
}

// G-56: PAD(SIZE_MAX - k, 32) must not become 0.
TEST(CheckedU64Test, AligningUpNeverWrapsToASmallNumber) {
  for (uint64_t k = 0; k <= 64; ++k) {
    const auto wide = (static_cast<unsigned __int128>(kMax) - k + 31) / 32 * 32;
    const CheckedU64 aligned = align_up(CheckedU64(kMax - k), 32);
    EXPECT_EQ(aligned.ok(), wide <= kMax) << k;
    if (aligned.ok()) {
      EXPECT_EQ(aligned.value(), static_cast<uint64_t>(wide)) << k;
    }
  }
  EXPECT_EQ(align_up(CheckedU64(33), 32).value(), 64u);
  EXPECT_EQ(align_up(CheckedU64(64), 32).value(), 64u);
  EXPECT_FALSE(align_up(CheckedU64(1), 0).ok());
}

TEST(CheckedU64Test, OneWrapMakesTheWholeFormulaInvalid) {
  const CheckedU64 wrapped = CheckedU64(kMax) + CheckedU64(1);
  EXPECT_FALSE((wrapped * CheckedU64(0)).ok());
  EXPECT_FALSE((CheckedU64(5) - wrapped).ok());
  EXPECT_FALSE(exact_quotient(wrapped, CheckedU64(1)).ok());
  EXPECT_FALSE(align_up(wrapped, 32).ok());
  EXPECT_FALSE(wrapped.ok_at_most(kMax));
}

TEST(CheckedU64Test, QuotientIsExactOrInvalid) {
  EXPECT_EQ(exact_quotient(CheckedU64(96), CheckedU64(32)).value(), 3u);
  EXPECT_FALSE(exact_quotient(CheckedU64(97), CheckedU64(32)).ok());
  EXPECT_FALSE(exact_quotient(CheckedU64(96), CheckedU64(0)).ok());
}

TEST(CheckedU64Test, KnowsPowersOfTwo) {
  for (unsigned shift = 0; shift < 64; ++shift) EXPECT_TRUE(is_power_of_two(uint64_t{1} << shift));
  for (const uint64_t other : {uint64_t{0}, uint64_t{3}, uint64_t{13}, uint64_t{96}, kMax}) {
    EXPECT_FALSE(is_power_of_two(other)) << other;
  }
}

}  // namespace
}  // namespace smallmind
