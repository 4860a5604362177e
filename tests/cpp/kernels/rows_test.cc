// Row kernels: against double arithmetic, and bit for bit between the instruction sets.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "activation_buffer.h"
#include "isa_list.h"

namespace smallmind {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_floats(size_t n, float range, unsigned seed) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> draw(-range, range);
  std::vector<float> x(n);
  for (auto& v : x) v = draw(rng);
  return x;
}

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_TRUE(std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i]) ||
                (std::isnan(a[i]) && std::isnan(b[i])))
        << what << " " << i << ": " << a[i] << " " << b[i];
}

// Runs fn on every instruction set; all results must have the same bits; returns them.
template <class Fn>
std::vector<float> on_every_isa(const Fn& fn) {
  std::vector<float> first;
  for (const Kernels* isa : available_kernels()) {
    const std::vector<float> out = fn(*isa);
    if (first.empty()) first = out;
    expect_same_bits(first, out, isa->name);
  }
  return first;
}

TEST(RowsTest, QuantizesToNearestWithTheBlocksMaximum) {
  auto x = random_floats(32 * 79, 5.0f, 1);
  for (size_t i = 0; i < 32; ++i) x[i] = 0x1p-101f;  // too small: all codes 0
  ActivationBuffer buffer(1, x.size());
  for (const Kernels* isa : available_kernels()) {
    const Activations a = buffer.view();
    std::memcpy(a.values, x.data(), x.size() * 4);
    isa->quantize(a, 0, 1);
    for (size_t b = 0; b < x.size() / 32; ++b) {
      float amax = 0;
      for (size_t i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(x[b * 32 + i]));
      const bool tiny = amax < 0x1p-100f;
      ASSERT_EQ(a.scales[b], tiny ? 0.0f : amax / 127.0f);
      int sum = 0;
      for (size_t i = 0; i < 32; ++i) {
        const int want =
            tiny ? 0 : static_cast<int>(std::nearbyint(x[b * 32 + i] * (127.0f / amax)));
        ASSERT_EQ(a.codes[b * 32 + i], want);
        sum += want;
      }
      ASSERT_EQ(a.minus_sums[b], -sum);
      ASSERT_EQ(a.minus_half_sums[2 * b] + a.minus_half_sums[2 * b + 1], -sum);
      ASSERT_EQ(a.scaled_sums[b], a.scales[b] * static_cast<float>(sum));
    }
  }
}

TEST(RowsTest, QuantizesFinelyInTwoPlanes) {
  const auto x = random_floats(256, 5.0f, 9);
  for (const Kernels* isa : available_kernels()) {
    ActivationBuffer buffer(1, x.size());
    const Activations a = buffer.view(true);
    std::memcpy(a.values, x.data(), x.size() * 4);
    isa->quantize_fine(a, 0, 1);
    for (size_t i = 0; i < x.size(); ++i) {
      const int code = 128 * a.codes[i] + a.low_codes[i];
      ASSERT_NEAR(static_cast<float>(code) * a.scales[i / 32], x[i], a.scales[i / 32] * 0.51f)
          << isa->name;
      ASSERT_LE(std::abs(int{a.low_codes[i]}), 64);
    }
    for (size_t b = 0; b < x.size() / 32; ++b) {
      int sum = 0;
      for (size_t i = 0; i < 32; ++i) sum += 128 * a.codes[b * 32 + i] + a.low_codes[b * 32 + i];
      ASSERT_EQ(128 * a.minus_sums[b] + a.low_minus_sums[b], -sum);
      ASSERT_EQ(a.low_minus_half_sums[2 * b] + a.low_minus_half_sums[2 * b + 1],
                a.low_minus_sums[b]);
      ASSERT_EQ(a.scaled_sums[b], a.scales[b] * static_cast<float>(sum));
    }
  }
}

// Any number of blocks from any block on, one of them poisoned (G-65): each as if it were alone,
// and nothing beside them is written.
TEST(RowsTest, QuantizesEveryBlockByItself) {
  constexpr size_t kBlocks = 40;
  constexpr int8_t kUntouched = 99;
  const auto x = random_floats(32 * kBlocks, 3.0f, 21);
  for (const Kernels* isa : available_kernels())
    for (size_t n = 1; n <= 19; ++n) {
      const size_t first = 5, bad = first + n / 2;
      ActivationBuffer buffer(1, x.size());
      const Activations a = buffer.view();
      std::memcpy(a.values, x.data(), x.size() * 4);
      a.values[bad * 32 + n] = n % 2 ? kNaN : kInfinity;
      std::memset(a.codes, kUntouched, x.size());
      isa->quantize_blocks(a, 0, first, n);
      for (size_t b = 0; b < kBlocks; ++b) {
        float amax = 0;
        for (size_t i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(x[b * 32 + i]));
        int sums[2] = {};
        for (size_t i = 0; i < 32; ++i) {
          const bool in_range = first <= b && b < first + n;
          const float code = std::nearbyint(x[b * 32 + i] * (127.0f / amax));
          ASSERT_EQ(a.codes[b * 32 + i], !in_range  ? kUntouched
                                         : b == bad ? 0
                                                    : code)
              << isa->name << " of " << n << " blocks " << b;
          sums[i / 16] += a.codes[b * 32 + i];
        }
        if (b < first || b >= first + n) continue;
        ASSERT_EQ(a.minus_half_sums[2 * b], -sums[0]) << isa->name << " of " << n << " " << b;
        ASSERT_EQ(a.minus_half_sums[2 * b + 1], -sums[1]);
        ASSERT_EQ(a.minus_sums[b], -sums[0] - sums[1]);
        if (b == bad)
          ASSERT_TRUE(std::isnan(a.scales[b]) && std::isnan(a.scaled_sums[b]));
        else
          ASSERT_EQ(a.scales[b], amax / 127.0f);
      }
    }
}

// G-65: int8 would hide a poisoned input.
TEST(RowsTest, MarksABlockWithANonFiniteInput) {
  for (const float bad : {kNaN, kInfinity, -kInfinity}) {
    for (const Kernels* isa : available_kernels()) {
      ActivationBuffer buffer(1, 64);
      const Activations a = buffer.view();
      for (size_t i = 0; i < 64; ++i) a.values[i] = 1.0f;
      a.values[40] = bad;
      isa->quantize(a, 0, 1);
      EXPECT_EQ(a.scales[0], 1.0f / 127.0f);
      EXPECT_TRUE(std::isnan(a.scales[1])) << isa->name;
      EXPECT_TRUE(std::isnan(a.scaled_sums[1])) << isa->name;
    }
  }
}

TEST(RowsTest, NormsAsInDouble) {
  const size_t n = 100;
  const auto x = random_floats(n, 3.0f, 2), w = random_floats(n, 2.0f, 3);
  const auto out = on_every_isa([&](const Kernels& k) {
    std::vector<float> y(n);
    k.rms_norm(x.data(), w.data(), n, 1e-5f, y.data());
    return y;
  });
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * v;
  for (size_t i = 0; i < n; ++i)
    EXPECT_NEAR(out[i], x[i] / std::sqrt(squares / n + 1e-5) * w[i], 2e-6);
}

TEST(RowsTest, ActivatesAsInDouble) {
  auto x = random_floats(1000, 12.0f, 4);
  x[0] = 0.0f, x[1] = 200.0f, x[2] = -200.0f, x[3] = -87.5f, x[4] = 88.5f;
  const auto up = random_floats(x.size(), 2.0f, 5);
  const auto run = [&](Activation act) {
    return on_every_isa([&](const Kernels& k) {
      auto y = x;
      k.gated(act, y.data(), up.data(), y.size());
      return y;
    });
  };
  const auto silu = run(Activation::kSilu), gelu = run(Activation::kGeluTanh);
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    EXPECT_NEAR(silu[i], v / (1 + std::exp(-v)) * up[i], 2e-6 * (1 + std::fabs(v)));
    EXPECT_NEAR(gelu[i],
                v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))) * up[i],
                2e-6 * (1 + std::fabs(v)));
  }
}

TEST(RowsTest, CapsSoftlyAsInDouble) {
  const auto x = random_floats(77, 300.0f, 6);
  const auto out = on_every_isa([&](const Kernels& k) {
    auto y = x;
    k.softcap(y.data(), 30.0f, y.size());
    return y;
  });
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(out[i], 30 * std::tanh(x[i] / 30.0), 2e-5);
}

TEST(RowsTest, TurnsPairsOfBothKinds) {
  const size_t n = 32;
  const auto x = random_floats(n, 2.0f, 7);
  std::vector<float> cos(n / 2), sin(n / 2);
  for (size_t i = 0; i < n / 2; ++i)
    cos[i] = std::cos(0.3f * static_cast<float>(i)),
    sin[i] = std::sin(0.3f * static_cast<float>(i));
  for (const Rope kind : {Rope::kAdjacent, Rope::kHalves}) {
    const auto out = on_every_isa([&](const Kernels& k) {
      auto y = x;
      k.rope(kind, y.data(), n, cos.data(), sin.data());
      return y;
    });
    for (size_t i = 0; i < n / 2; ++i) {
      const size_t a = kind == Rope::kAdjacent ? 2 * i : i,
                   b = kind == Rope::kAdjacent ? 2 * i + 1 : i + n / 2;
      EXPECT_NEAR(out[a], x[a] * cos[i] - x[b] * sin[i], 1e-6);
      EXPECT_NEAR(out[b], x[a] * sin[i] + x[b] * cos[i], 1e-6);
    }
  }
}

TEST(RowsTest, RoundsToBfloat16) {
  std::vector<float> x = random_floats(64, 4.0f, 8);
  x[0] = 0x1p-57f, x[1] = 0x1p-56f, x[2] = 1.00390625f,
  x[3] = 1.01171875f;  // dropped, kept, tie to even below, tie to even above
  x[4] = std::numeric_limits<float>::infinity(), x[5] = std::numeric_limits<float>::quiet_NaN(),
  x[6] = 0x1.fffffep+127f;
  const auto out = on_every_isa([&](const Kernels& k) {
    auto y = x;
    k.round_bf16(y.data(), y.size());
    return y;
  });
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0x1p-56f);
  EXPECT_EQ(out[2], 1.0f);
  EXPECT_EQ(out[3], 1.015625f);
  EXPECT_EQ(out[4], x[4]);
  EXPECT_TRUE(std::isnan(out[5]));
  EXPECT_EQ(out[6], std::numeric_limits<float>::infinity());
  for (size_t i = 7; i < x.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(out[i]) & 0xffff, 0u);
    EXPECT_LE(std::fabs(out[i] - x[i]), std::fabs(x[i]) / 256);
  }
}

}  // namespace
}  // namespace smallmind
