// Products of float weights against sums in double precision (B81).
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "activation_buffer.h"
#include "base/aligned_buffer.h"
#include "isa_list.h"
#include "quant/formats.h"
#include "quant/pack.h"

namespace smallmind {
namespace {

// C = A * B with A the tokens [m][k] and B the weights [n][k], packed from a file's rows.
struct Gemm {
  size_t m, n, k;
  std::vector<float> weights;
  AlignedBuffer<std::byte> panels;
  PackedMatrix matrix;
  ActivationBuffer buffer;
  Activations inputs;

  Gemm(size_t m_, size_t n_, size_t k_)
      : m(m_),
        n(n_),
        k(k_),
        weights(n * k),
        panels((n + 15) / 16 * quant::panel_bytes(gguf::TensorType::kF32, k)),
        buffer(m, k),
        inputs(buffer.view()) {
    std::mt19937 rng(static_cast<unsigned>(m * 10007 + n * 101 + k));
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (float& w : weights) w = uniform(rng);
    for (size_t i = 0; i < m * k; ++i) inputs.values[i] = uniform(rng);
    const size_t panel_bytes = quant::panel_bytes(gguf::TensorType::kF32, k);
    const auto* rows = reinterpret_cast<const std::byte*>(weights.data());
    for (size_t row = 0; row < n; row += 16)
      quant::pack_panel(gguf::TensorType::kF32, rows + row * k * sizeof(float),
                        std::min<size_t>(16, n - row), k, panels.data() + row / 16 * panel_bytes);
    matrix = {gguf::TensorType::kF32, n, k, panel_bytes, panels.data()};
  }

  std::vector<float> product(const Kernels& isa) const {
    std::vector<float> out(m * n, -1.0f);
    isa.matmul(matrix, 0, matrix.n_panels(), inputs, m, out.data(), n);
    return out;
  }
};

// The forward error of k fused multiply-adds: at most k roundings of half a unit each.
void check_against_double(const Gemm& gemm, const Kernels& isa) {
  const std::vector<float> out = gemm.product(isa);
  for (size_t i = 0; i < gemm.m; ++i) {
    for (size_t j = 0; j < gemm.n; ++j) {
      double sum = 0, sum_of_magnitudes = 0;
      for (size_t k = 0; k < gemm.k; ++k) {
        const double term =
            double{gemm.inputs.values[i * gemm.k + k]} * double{gemm.weights[j * gemm.k + k]};
        sum += term;
        sum_of_magnitudes += std::fabs(term);
      }
      const double bound = static_cast<double>(gemm.k) * 0x1p-24 * sum_of_magnitudes;
      ASSERT_LE(std::fabs(double{out[i * gemm.n + j]} - sum), bound)
          << isa.name << ' ' << gemm.m << " x " << gemm.n << " x " << gemm.k << " at " << i << ", "
          << j;
    }
  }
}

// Tiles of every size, whole panels and parts of one, one column and many.
TEST(GemmTest, IsWithinTheRoundingOfItsSums) {
  const struct {
    size_t m, n, k;
  } shapes[] = {{1, 1, 1},    {1, 16, 3},   {2, 17, 64},   {3, 8, 100},  {7, 33, 37},
                {8, 64, 256}, {15, 24, 65}, {19, 40, 513}, {64, 96, 200}};
  for (const auto& shape : shapes) {
    const Gemm gemm(shape.m, shape.n, shape.k);
    for (const Kernels* isa : available_kernels()) check_against_double(gemm, *isa);
  }
}

// The tile that a token falls into must not show: alone it gives the same bits.
TEST(GemmTest, GivesATokenTheSameBitsInAnyTile) {
  const Gemm gemm(23, 48, 129);
  for (const Kernels* isa : available_kernels()) {
    const std::vector<float> together = gemm.product(*isa);
    for (size_t token = 0; token < gemm.m; ++token) {
      Activations one = gemm.inputs;
      one.values += token * gemm.k;
      std::vector<float> alone(gemm.n);
      isa->matmul(gemm.matrix, 0, gemm.matrix.n_panels(), one, 1, alone.data(), gemm.n);
      for (size_t j = 0; j < gemm.n; ++j)
        ASSERT_EQ(std::bit_cast<uint32_t>(alone[j]),
                  std::bit_cast<uint32_t>(together[token * gemm.n + j]))
            << isa->name << " token " << token << " row " << j;
    }
  }
}

}  // namespace
}  // namespace smallmind
