// Every weight format against vectors made by the gguf package
// (tests/support/make_quant_vectors.py).
#include "quant/formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "quant/pack.h"

namespace smallmind::quant {
namespace {

struct Vectors {
  size_t n_blocks = 0;
  std::vector<std::byte> blocks;
  std::vector<float> values;
};

Vectors read_vectors(gguf::TensorType type, size_t block_bytes, size_t block_elements) {
  const std::string name(gguf::tensor_type_traits(static_cast<uint32_t>(type))->name);
  std::ifstream file(std::string(SMALLMIND_GOLDEN_DIR) + "/quant/" + name + ".bin",
                     std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  uint32_t header[3] = {};
  if (bytes.size() < sizeof header) {
    ADD_FAILURE() << "no vectors for " << name;
    return {};
  }
  std::memcpy(header, bytes.data(), sizeof header);
  EXPECT_EQ(header[1], block_bytes) << name;
  EXPECT_EQ(header[2], block_elements) << name;
  Vectors v;
  v.n_blocks = header[0];
  v.blocks.resize(v.n_blocks * block_bytes);
  v.values.resize(v.n_blocks * block_elements);
  EXPECT_EQ(bytes.size(), sizeof header + v.blocks.size() + v.values.size() * 4) << name;
  std::memcpy(v.blocks.data(), bytes.data() + sizeof header, v.blocks.size());
  std::memcpy(v.values.data(), bytes.data() + sizeof header + v.blocks.size(), v.values.size() * 4);
  return v;
}

// Bit for bit, but any NaN equals any NaN.
void expect_same_bits(const float* a, const float* b, size_t n, std::string_view what) {
  for (size_t i = 0; i < n; ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << what << " element " << i << ": " << a[i] << " against " << b[i];
  }
}

TEST(FormatsTest, DequantizesEveryFormatAsTheGgufPackageDoes) {
  Formats::for_each([]<class F>() {
    const auto traits = *gguf::tensor_type_traits(static_cast<uint32_t>(F::kType));
    const Vectors v = read_vectors(F::kType, traits.block_bytes, traits.block_elements);
    ASSERT_GT(v.n_blocks, 0u);
    std::vector<float> out(v.values.size());
    dequantize(F::kType, v.blocks, out);
    expect_same_bits(out.data(), v.values.data(), out.size(), traits.name);
  });
}

// A panel holds the same weights as the file: rows beyond the first, missing rows zero.
TEST(FormatsTest, PanelsKeepEveryWeightOfTheFile) {
  Formats::for_each([]<class F>() {
    const auto traits = *gguf::tensor_type_traits(static_cast<uint32_t>(F::kType));
    const Vectors v = read_vectors(F::kType, traits.block_bytes, traits.block_elements);
    const size_t n_columns = F::kInteger ? 256 : 7;
    const size_t row_blocks = n_columns / traits.block_elements;
    const size_t n_rows = std::min<size_t>(kPanelRows - 3, v.n_blocks / row_blocks);
    ASSERT_GE(n_rows, 2u) << traits.name;
    std::vector<std::byte> panel(panel_bytes(F::kType, n_columns));
    pack_panel(F::kType, v.blocks.data(), n_rows, n_columns, panel.data());
    std::vector<float> row(n_columns);
    for (size_t r = 0; r < kPanelRows; ++r) {
      dequantize_row(F::kType, panel.data(), r, n_columns, row.data());
      if (r < n_rows) {
        expect_same_bits(row.data(), v.values.data() + r * n_columns, n_columns, traits.name);
      } else {
        for (const float x : row) ASSERT_EQ(x, 0.0f) << traits.name;
      }
    }
  });
}

}  // namespace
}  // namespace smallmind::quant
