// Tensor infos and where the tensors lie.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gguf_bytes.h"

namespace smallmind::gguf {
namespace {

constexpr uint64_t kMax = ~uint64_t{0};

Failure failure_of_tensor(const std::string& info, size_t data_bytes = 4096) {
  return failure_of_parsing(with_data(header(1, 0) + info, data_bytes));
}

// G-50
TEST(TensorTest, NamesAreShortUniqueUtf8) {
  const std::vector<std::string> bad = {"",
                                        std::string(64, 'x'),
                                        std::string(65'536, 'x'),
                                        std::string("a\0b", 3),
                                        "a\x1b[0m",
                                        "\xFF",
                                        "\x7f",
                                        "\xC2\x9B"};
  for (const std::string& name : bad) {
    const Failure failure = failure_of_tensor(tensor(name, {1}, 0, 0));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "name")) << failure.message;
  }
  EXPECT_NO_THROW(
      parse_bytes(with_data(header(1, 0) + tensor(std::string(63, 'x'), {1}, 0, 0), 4)));
  const std::string twice =
      tensor("same", {1}, 0, 0) + tensor("other", {1}, 0, 32) + tensor("same", {1}, 0, 64);
  const Failure failure = failure_of_parsing(with_data(header(3, 0) + twice, 96));
  EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
  EXPECT_TRUE(contains(failure, "tensor 'same': the name is given twice")) << failure.message;
}

TEST(TensorTest, NameLengthsAtTheEdgesAreRefused) {
  for (const uint64_t n : {kMax, uint64_t{1} << 63, uint64_t{1} << 30, uint64_t{64}}) {
    const Failure failure = failure_of_tensor(bytes_of(n) + std::string(100, 'x'));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "name length " + std::to_string(n))) << failure.message;
  }
}

// G-51
TEST(TensorTest, HasOneToFourDimensions) {
  for (const uint32_t n_dims : {0u, 5u, 9u, 1000u, 1u << 31, ~0u}) {
    const Failure failure =
        failure_of_tensor(string_bytes("t") + bytes_of(n_dims) + std::string(200, '\1'));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "tensor 't': n_dims wants 1 to 4, has " + std::to_string(n_dims)))
        << failure.message;
  }
}

// G-52, G-53
TEST(TensorTest, ExtentsArePositiveAndSigned) {
  for (const uint64_t bad : {uint64_t{0}, kMax, uint64_t{1} << 63, (uint64_t{1} << 63) + 1}) {
    for (size_t axis = 0; axis < 4; ++axis) {
      std::vector<uint64_t> dims(4, 1);
      dims[axis] = bad;
      const Failure failure = failure_of_tensor(tensor("t", dims, 0, 0));
      EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
      EXPECT_TRUE(contains(failure, "tensor 't': extent " + std::to_string(axis)))
          << failure.message;
    }
  }
}

// G-54: products that wrap to 0, to 1 and to a small number.
TEST(TensorTest, ElementCountsThatWrapAreRefused) {
  const uint64_t k16 = uint64_t{1} << 16;
  const uint64_t k32 = uint64_t{1} << 32;
  const std::vector<std::vector<uint64_t>> wrapping = {
      {k32, k32},
      {uint64_t{1} << 33, uint64_t{1} << 31},
      {k16, k16, k16, k16},
      {274177, 67280421310721, 1, 1},  // 2^64 + 1: wraps to 1
      {4, (uint64_t{1} << 62) + 1},    // wraps to 4
      {k32, uint64_t{1} << 31},        // 2^63: not a signed number
      {~uint64_t{0} >> 1, 2}};
  for (const auto& dims : wrapping) {
    const Failure failure = failure_of_tensor(tensor("t", dims, 0, 0));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "tensor 't'")) << failure.message;
  }
}

struct Format {
  uint32_t id;
  uint64_t block;
  uint64_t bytes;
};
constexpr Format kFormats[] = {{0, 1, 4},      {1, 1, 2},      {2, 32, 18},
                               {3, 32, 20},    {6, 32, 22},    {8, 32, 34},
                               {12, 256, 144}, {14, 256, 210}, {30, 1, 2}};

// G-55, G-56, G-61: sizes in bytes near 2^64 and merely too great, for every type.
TEST(TensorTest, ByteSizesThatWrapOrPassTheFileAreRefused) {
  for (const Format& format : kFormats) {
    const uint64_t n_wrapping = kMax / format.bytes * format.block;
    for (uint64_t blocks_more = 0; blocks_more <= 3; ++blocks_more) {
      const uint64_t n = (n_wrapping / format.block + blocks_more) * format.block;
      EXPECT_EQ(failure_of_tensor(tensor("t", {n}, format.id, 0)).kind, ErrorKind::kModelFormat);
    }
    const std::string info = tensor("t", {format.block * 3}, format.id, 0);
    const std::string fits = with_data(header(1, 0) + info, format.bytes * 3);
    EXPECT_EQ(parse_bytes(fits).tensors[0].n_bytes, format.bytes * 3);
    const Failure cut = failure_of_parsing(fits.substr(0, fits.size() - 1));
    EXPECT_EQ(cut.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(cut, "tensor 't'")) << cut.message;
  }
}

// G-57
TEST(TensorTest, SumOfSizesDoesNotWrap) {
  std::string infos;
  for (int i = 0; i < 4; ++i) {
    infos += tensor("t" + std::to_string(i), {0x1FFFFFFFFFFFFFF0}, 0, uint64_t(i) << 62);
  }
  EXPECT_EQ(failure_of_parsing(with_data(header(4, 0) + infos, 4096)).kind,
            ErrorKind::kModelFormat);
}

// G-58: every id that smallmind does not read, retired and future ones.
TEST(TensorTest, UnknownTypeIsUnsupported) {
  const auto is_read = [](uint32_t id) {
    for (const Format& format : kFormats) {
      if (format.id == id) return true;
    }
    return false;
  };
  std::vector<uint32_t> ids = {255, 256, 1u << 31, ~0u};
  for (uint32_t id = 0; id < 64; ++id) ids.push_back(id);
  for (const uint32_t id : ids) {
    const std::string info = tensor("t", {256}, id, 0);
    if (is_read(id)) {
      EXPECT_NO_THROW(parse_bytes(with_data(header(1, 0) + info, 4096)));
      continue;
    }
    const Failure failure = failure_of_tensor(info);
    EXPECT_EQ(failure.kind, ErrorKind::kUnsupportedModel) << id;
    EXPECT_TRUE(contains(failure, "tensor 't': tensor type " + std::to_string(id)));
  }
}

// G-59
TEST(TensorTest, FirstExtentIsAMultipleOfTheBlock) {
  for (const Format& format : kFormats) {
    if (format.block == 1) continue;
    for (const uint64_t n : {format.block - 1, format.block + 1, uint64_t{1}}) {
      // The count as a whole is a multiple: only the rows are not.
      const Failure failure = failure_of_tensor(tensor("t", {n, format.block}, format.id, 0));
      EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
      EXPECT_TRUE(contains(failure, "multiple of " + std::to_string(format.block)));
    }
  }
}

// G-60
TEST(TensorTest, OffsetsAreAlignedAndDoNotWrap) {
  for (const uint64_t offset :
       {uint64_t{1}, uint64_t{31}, uint64_t{33}, kMax - 31, kMax - 63, uint64_t{1} << 63, kMax}) {
    const Failure failure = failure_of_tensor(tensor("t", {8}, 0, offset));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "tensor 't': offset " + std::to_string(offset)));
  }
}

// G-61
TEST(TensorTest, TensorLiesInsideTheFile) {
  for (const uint64_t offset : {uint64_t{96}, uint64_t{128}, uint64_t{1} << 40}) {
    EXPECT_EQ(failure_of_tensor(tensor("t", {9}, 0, offset), 128).kind, ErrorKind::kModelFormat);
  }
  EXPECT_NO_THROW(parse_bytes(with_data(header(1, 0) + tensor("t", {8}, 0, 96), 128)));
}

// G-62: sharing a byte is refused; any order, gaps and bytes after the last tensor are not.
TEST(TensorTest, TensorsDoNotOverlap) {
  const std::vector<std::vector<std::string>> overlapping = {
      {tensor("a", {8}, 0, 0), tensor("b", {8}, 0, 0)},
      {tensor("a", {9}, 0, 0), tensor("b", {8}, 0, 32)},
      {tensor("b", {8}, 0, 32), tensor("a", {64}, 0, 0)},
      {tensor("a", {64}, 0, 0), tensor("b", {1}, 0, 96)}};
  for (const auto& infos : overlapping) {
    const Failure failure = failure_of_parsing(with_data(header(2, 0) + infos[0] + infos[1], 1024));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "overlap")) << failure.message;
  }
  const std::string apart =
      tensor("c", {8}, 0, 512) + tensor("a", {8}, 0, 0) + tensor("b", {8}, 0, 32);
  const Header file = parse_bytes(with_data(header(3, 0) + apart, 1024));
  EXPECT_EQ(file.tensors[0].name, "c");
  EXPECT_EQ(file.find_tensor("b")->offset, file.data_offset + 32);
}

// G-11
TEST(TensorTest, ManyTensorsAreCheckedInTime) {
  std::string infos;
  for (uint64_t i = 0; i < kMaxTensors; ++i) {
    infos += tensor(std::string(50, 't') + std::to_string(i), {8}, 0, 32 * i);
  }
  const std::string bytes = with_data(header(kMaxTensors, 0) + infos, 32 * kMaxTensors);
  const auto start = Clock::now();
  EXPECT_EQ(parse_bytes(bytes).tensors.size(), kMaxTensors);
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 3.0);
}

}  // namespace
}  // namespace smallmind::gguf
