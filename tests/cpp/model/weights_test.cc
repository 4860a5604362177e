// Matrices of several pieces, read and packed by two threads.
#include "model/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/gang.h"
#include "gguf/gguf_bytes.h"
#include "quant/pack.h"

namespace smallmind {
namespace {

constexpr uint64_t kColumns = 640;
constexpr uint64_t kRows =
    6'005;  // 376 panels, 16 pieces: an item for each thread; the last panel has 5 rows
constexpr uint32_t kQ8_0 = 8;

// Rows of codes of any value and of finite scales.
std::string random_rows(size_t n_rows) {
  std::mt19937 rng(3);
  std::string bytes(n_rows * kColumns / 32 * 34, '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng());
  for (size_t at = 0; at < bytes.size(); at += 34) {
    const auto scale = static_cast<uint16_t>(0x2000 + rng() % 0x0c00);
    std::memcpy(bytes.data() + at, &scale, sizeof scale);
  }
  return bytes;
}

TEST(WeightsTest, PanelsAndLengthsOfRowsAreThoseOfTheWholeMatrix) {
  const std::string rows = random_rows(kRows);
  std::string file = gguf::with_data(
      gguf::header(1, 0) + gguf::tensor("w", {kColumns, kRows}, kQ8_0, 0), rows.size());
  std::memcpy(file.data() + file.size() - rows.size(), rows.data(), rows.size());
  const auto source = memory_source(std::as_bytes(std::span(file)));
  const gguf::Header header = gguf::parse(*source);

  WeightBinder binder(header);
  PackedMatrix matrix;
  std::vector<float> norms;
  binder.matrix("w", kRows, kColumns, matrix, &norms);
  Gang gang(2);
  Weights weights;
  binder.load(*source, gang, {}, nullptr, weights);

  const size_t row_bytes = rows.size() / kRows;
  std::vector<std::byte> panel(matrix.panel_bytes);
  for (size_t p = 0; p < matrix.n_panels(); ++p) {
    const size_t first = p * 16, n = std::min<size_t>(16, kRows - first);
    std::fill(panel.begin(), panel.end(), std::byte{0});
    quant::pack_panel(gguf::TensorType::kQ8_0,
                      std::as_bytes(std::span(rows)).data() + first * row_bytes, n, kColumns,
                      panel.data());
    ASSERT_EQ(0, std::memcmp(panel.data(), matrix.panels + p * panel.size(), panel.size())) << p;
  }
  std::vector<float> want(matrix.n_panels());
  kernels().panel_norms(matrix, 0, want.size(), want.data());
  EXPECT_EQ(norms, want);
}

}  // namespace
}  // namespace smallmind
