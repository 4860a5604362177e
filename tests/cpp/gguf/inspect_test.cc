#include "smallmind/inspect.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gguf_bytes.h"

namespace smallmind {
namespace {

class InspectTest : public ::testing::Test {
 protected:
  ~InspectTest() override { std::filesystem::remove(path_); }

  FileSummary inspect(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return inspect_file(path_.string());
  }

  const std::filesystem::path path_ = std::filesystem::temp_directory_path() /
                                      ("smallmind-inspect-" + std::to_string(::getpid()) + ".bin");
};

std::string value_of(const FileSummary& summary, const std::string& key) {
  for (const auto& item : summary.metadata) {
    if (item.key == key) return item.type + " " + item.value;
  }
  return "absent";
}

TEST_F(InspectTest, SummarisesEveryEntryAndTensorInFileOrder) {
  const std::string bytes = gguf::complete_file();
  const FileSummary summary = inspect(bytes);
  EXPECT_EQ(summary.version, 3u);
  EXPECT_EQ(summary.alignment, 64u);
  EXPECT_EQ(summary.file_bytes, bytes.size());
  EXPECT_EQ(summary.metadata.front().key, "general.architecture");
  EXPECT_EQ(value_of(summary, "general.architecture"), "str 'llama'");
  EXPECT_EQ(value_of(summary, "a.i8"), "i8 -100");
  EXPECT_EQ(value_of(summary, "a.u8"), "u8 200");
  EXPECT_EQ(value_of(summary, "a.f32"), "f32 0.5");
  EXPECT_EQ(value_of(summary, "a.bool"), "bool true");
  EXPECT_EQ(value_of(summary, "a.str"), "str 'caf\\xc3\\xa9'");
  EXPECT_EQ(value_of(summary, "b.i32"), "array[i32] [7, 8]");
  EXPECT_EQ(value_of(summary, "b.bool"), "array[bool] [true, false, true]");
  EXPECT_EQ(value_of(summary, "tokenizer.ggml.tokens"), "array[str] ['a', '', '\\xff\\xfe']");
  ASSERT_EQ(summary.tensors.size(), 3u);
  EXPECT_EQ(summary.tensors[0].name, "x");
  EXPECT_EQ(summary.tensors[0].type, "Q8_0");
  EXPECT_EQ(summary.tensors[0].dims, (std::vector<uint64_t>{32, 2}));
  EXPECT_EQ(summary.tensors[2].dims, (std::vector<uint64_t>{2, 3, 4, 1}));
  EXPECT_EQ(summary.tensors[2].n_bytes, 48u);
}

// G-71: what could move a cursor, change the reading order or break a line comes out escaped.
TEST_F(InspectTest, HostileTextComesOutEscapedAndCut) {
  const std::string hostile = "\x1b[2J\xE2\x80\xAE\r\n" + std::string(100'000, 'x');
  const FileSummary summary = inspect(gguf::with_data(
      gguf::header(1, 2) + gguf::string_entry("general.name", hostile) +
          gguf::string_entry("k\xE2\x80\xAE", "v") + gguf::tensor("t\xE2\x80\xAE", {8}, 0, 0),
      32));
  for (const auto& item : summary.metadata) {
    for (const std::string& text : {item.key, item.value}) {
      EXPECT_LT(text.size(), 200u);
      for (const char c : text) EXPECT_TRUE(c >= 0x20 && c < 0x7F);
    }
  }
  EXPECT_NE(value_of(summary, "general.name").find("\\x1b[2J\\xe2\\x80\\xae\\x0d\\n"),
            std::string::npos);
  EXPECT_EQ(summary.tensors[0].name, "t\\xe2\\x80\\xae");
}

TEST_F(InspectTest, LongArraysAreCutAndCounted) {
  std::string elements;
  for (int i = 0; i < 5000; ++i) elements += gguf::bytes_of<int32_t>(i);
  const FileSummary summary =
      inspect(gguf::header(0, 1) + gguf::array_entry("k", 5, 5000, elements));
  const std::string value = value_of(summary, "k");
  EXPECT_TRUE(value.starts_with("array[i32] [0, 1, 2, ")) << value;
  EXPECT_TRUE(value.ends_with("...] (5000)")) << value;
  EXPECT_LT(value.size(), 200u);
}

TEST_F(InspectTest, AbsentFileIsNotFound) {
  EXPECT_EQ(gguf::failure_of([&] { inspect_file(path_.string() + ".absent"); }).kind,
            ErrorKind::kModelNotFound);
}

}  // namespace
}  // namespace smallmind
