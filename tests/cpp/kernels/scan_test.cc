// Scans of long rows against plain loops, on every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <random>
#include <vector>

#include "base/math.h"
#include "isa_list.h"

namespace smallmind {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_row(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<float> row(n);
  for (float& x : row) x = static_cast<float>(static_cast<int>(rng() % 2001) - 1000) / 16.0f;
  return row;
}

TEST(ScanTest, FindsWhatIsNotFiniteWhereverItStands) {
  for (const Kernels* isa : available_kernels()) {
    for (const size_t n : {1, 15, 16, 17, 1000}) {
      std::vector<float> row = random_row(n, 1);
      row[n / 2] = std::numeric_limits<float>::max();
      EXPECT_TRUE(isa->all_finite(row.data(), n)) << isa->name;
      for (size_t at = 0; at < n; ++at) {
        for (const float bad : {kInfinity, -kInfinity, std::nanf(""), -std::nanf("")}) {
          std::vector<float> spoilt = row;
          spoilt[at] = bad;
          ASSERT_FALSE(isa->all_finite(spoilt.data(), n))
              << isa->name << " " << bad << " at " << at;
        }
      }
    }
  }
}

// Many equal values, both zeros among them: the lowest index wins, as in std::max_element.
TEST(ScanTest, FindsTheFirstOfTheHighest) {
  for (const Kernels* isa : available_kernels()) {
    for (const size_t n : {1, 16, 17, 1023, 1024, 1025, 5000}) {
      for (unsigned seed = 0; seed < 20; ++seed) {
        std::vector<float> row = random_row(n, seed);
        if (seed % 4 == 1)
          for (float& x : row) x = x > 0 ? -x : -0.0f * x;
        if (seed % 4 == 2) std::fill(row.begin(), row.end(), -kInfinity);
        if (seed % 4 == 3) row[seed % n] = -kInfinity;
        const auto want = std::max_element(row.begin(), row.end()) - row.begin();
        ASSERT_EQ(isa->highest(row.data(), n), static_cast<size_t>(want)) << isa->name << " " << n;
      }
    }
  }
}

TEST(ScanTest, FindsTheHighestOfEverySixteen) {
  for (const Kernels* isa : available_kernels()) {
    for (const size_t n : {1, 15, 16, 17, 48, 1000}) {
      std::vector<float> row = random_row(n, static_cast<unsigned>(n));
      if (n > 20) std::fill_n(row.begin() + 16, 5, -kInfinity);
      std::vector<float> out((n + 15) / 16 + 1, 0.5f);
      isa->maxima(row.data(), n, out.data());
      EXPECT_EQ(out.back(), 0.5f);
      for (size_t i = 0; i < n; i += 16) {
        const auto begin = row.begin() + static_cast<std::ptrdiff_t>(i);
        const auto end = begin + static_cast<std::ptrdiff_t>(std::min<size_t>(16, n - i));
        EXPECT_EQ(out[i / 16], *std::max_element(begin, end)) << isa->name << " " << n;
      }
    }
  }
}

// The sum written out: blocks of 1,024, lanes of 16.
double plain_sum(const std::vector<float>& row, float max, double temperature) {
  double sum = 0;
  for (size_t begin = 0; begin < row.size(); begin += 1024) {
    double lanes[16] = {};
    for (size_t i = begin; i < std::min(begin + 1024, row.size()); ++i)
      lanes[i % 16] += exp_portable((double{row[i]} - double{max}) / temperature);
    double block = 0;
    for (const double lane : lanes) block += lane;
    sum += block;
  }
  return sum;
}

// With banned tokens, and distances on both sides of what a double can hold.
TEST(ScanTest, SumsExponentialsBitForBitInTheFrozenOrder) {
  for (const size_t n : {1, 16, 17, 1023, 1024, 1030, 5000}) {
    std::vector<float> row = random_row(n, static_cast<unsigned>(n));
    row[n / 3] = -kInfinity;
    const float max = row[n / 2] = 63.0f;
    for (const double temperature : {0.8, 1.0, 100.0, 0.17, 1e-9, 5e-324}) {
      const double want = plain_sum(row, max, temperature);
      EXPECT_GE(want, 1.0);
      for (const Kernels* isa : available_kernels()) {
        const double got = isa->sum_of_exponentials(row.data(), n, max, temperature);
        EXPECT_EQ(std::bit_cast<uint64_t>(got), std::bit_cast<uint64_t>(want))
            << isa->name << " " << n << " at " << temperature;
      }
    }
  }
}

}  // namespace
}  // namespace smallmind
