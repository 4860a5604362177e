// What parse() makes of whole files: good ones, and wrong headers.
#include "gguf/reader.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gguf_bytes.h"

namespace smallmind::gguf {
namespace {

constexpr uint64_t kMax = ~uint64_t{0};

TEST(ReaderTest, ReadsACompleteFile) {
  const std::string bytes = complete_file();
  const Header file = parse_bytes(bytes);
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.alignment, 64u);
  EXPECT_EQ(file.file_bytes, bytes.size());
  EXPECT_EQ(file.data_offset % 64, 0u);
  EXPECT_EQ(file.data_offset + 240, bytes.size());
  ASSERT_EQ(file.tensors.size(), 3u);

  const TensorInfo* x = file.find_tensor("x");
  ASSERT_NE(x, nullptr);
  EXPECT_EQ(x->type, TensorType::kQ8_0);
  EXPECT_EQ(x->n_dims, 2u);
  EXPECT_EQ(x->dims, (std::array<uint64_t, 4>{32, 2, 1, 1}));
  EXPECT_EQ(x->offset, file.data_offset);
  EXPECT_EQ(x->n_bytes, 68u);
  EXPECT_EQ(file.find_tensor("y")->offset, file.data_offset + 128);
  EXPECT_EQ(file.find_tensor("y")->n_bytes, 20u);
  EXPECT_EQ(file.find_tensor("z")->n_bytes, 48u);
  EXPECT_EQ(file.find_tensor("w"), nullptr);
  EXPECT_EQ(file.find_tensor(""), nullptr);
}

TEST(ReaderTest, ReadsVersionTwoAndFilesWithoutTensors) {
  EXPECT_EQ(parse_bytes(header(0, 0, 2)).version, 2u);
  const Header vocabulary = parse_bytes(header(0, 1) + string_entry("k", "v"));
  EXPECT_TRUE(vocabulary.tensors.empty());
  EXPECT_EQ(vocabulary.metadata.require_string("k"), "v");
}

// G-01
TEST(ReaderTest, WrongMagicNamesTheKindOfFile) {
  const std::vector<std::pair<std::string, std::string>> files = {
      {"FUGG" + std::string(40, '\0'), "byte order"},
      {"GGML" + std::string(40, '\0'), "GGML"},
      {"lmgg" + std::string(40, '\0'), "GGML"},
      {"GGJT" + std::string(40, '\0'), "GGJT"},
      {"PK\x03\x04" + std::string(40, '\0'), "zip"},
      {"\x1f\x8b\x08" + std::string(40, '\0'), "gzip"},
      {"\x80\x02}q" + std::string(40, '\0'), "pickle"},
      {bytes_of<uint64_t>(2) + "{}" + std::string(40, '\0'), "safetensors"},
      {"\x7f"
       "ELF" +
           std::string(40, '\0'),
       "ELF"},
      {"ordinary text, quite long", "ordi"},
      {"", "magic"},
      {"GGU", "magic"},
  };
  for (const auto& [bytes, kind] : files) {
    const Failure failure = failure_of_parsing(bytes);
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, kind)) << failure.message;
    EXPECT_TRUE(contains(failure, "magic")) << failure.message;
  }
}

// G-03
TEST(ReaderTest, UnknownVersionIsUnsupported) {
  for (const uint32_t version : {0u, 1u, 4u, 0xFFFFFFFFu, 0x02000000u, 0x03000000u}) {
    const Failure failure = failure_of_parsing(header(0, 0, version));
    EXPECT_EQ(failure.kind, ErrorKind::kUnsupportedModel);
    EXPECT_TRUE(contains(failure, "version " + std::to_string(version)));
    EXPECT_EQ(contains(failure, "big-endian"), version >= 0x02000000u && version != 0xFFFFFFFFu);
  }
}

// G-04, G-05
TEST(ReaderTest, HugeCountsAreLimitErrors) {
  for (const uint64_t n : {kMax, uint64_t{1} << 63, uint64_t{1} << 32, kMax / sizeof(TensorInfo),
                           kMax / sizeof(TensorInfo) + 1, uint64_t{65'537}}) {
    const Failure tensors = failure_of_parsing(header(n, 0));
    EXPECT_EQ(tensors.kind, ErrorKind::kModelLimit);
    EXPECT_TRUE(contains(tensors, "n_tensors " + std::to_string(n))) << tensors.message;
    EXPECT_TRUE(contains(tensors, "(byte 8)")) << tensors.message;
    const Failure entries = failure_of_parsing(header(0, n));
    EXPECT_EQ(entries.kind, ErrorKind::kModelLimit);
    EXPECT_TRUE(contains(entries, "n_kv " + std::to_string(n))) << entries.message;
    EXPECT_TRUE(contains(entries, "(byte 16)")) << entries.message;
  }
}

// G-06
TEST(ReaderTest, CountsThatTheFileCannotHoldAreRefusedAtOnce) {
  const std::string kilobyte(1000, '\0');
  for (const bool in_tensors : {false, true}) {
    const Failure failure =
        failure_of_parsing(header(in_tensors ? 60'000 : 0, in_tensors ? 0 : 60'000) + kilobyte);
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, in_tensors ? "n_tensors 60000" : "n_kv 60000"));
    EXPECT_TRUE(contains(failure, "has 1000 left")) << failure.message;
  }
}

// G-07
TEST(ReaderTest, CountsLowerThanTheContentDoNotPass) {
  const std::string entries = string_entry("general.architecture", "llama") + u32_entry("n", 7);
  const std::string infos = tensor("x", {8}, 0, 0) + tensor("y", {8}, 0, 32);
  EXPECT_EQ(parse_bytes(with_data(header(2, 2) + entries + infos, 64)).tensors.size(), 2u);
  const Failure fewer_entries = failure_of_parsing(with_data(header(2, 1) + entries + infos, 64));
  EXPECT_EQ(fewer_entries.kind, ErrorKind::kModelFormat);
  // One info less: the rest of the infos lies where the data is taken to be, and the missing
  // tensor is missed by name.
  const Header fewer = parse_bytes(with_data(header(1, 2) + entries + infos, 64));
  EXPECT_EQ(fewer.find_tensor("y"), nullptr);
}

// G-23
TEST(ReaderTest, AlignmentIsAPowerOfTwoUpTo64KiB) {
  for (const uint32_t good : {1u, 2u, 8u, 32u, 64u, 4096u, 65'536u}) {
    EXPECT_EQ(parse_bytes(header(0, 1) + u32_entry("general.alignment", good)).alignment, good);
  }
  for (const uint32_t bad : {0u, 3u, 13u, 24u, 65'535u, 65'537u, 131'072u, 1u << 31, ~0u}) {
    const Failure failure = failure_of_parsing(header(0, 1) + u32_entry("general.alignment", bad));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "'general.alignment'")) << failure.message;
    EXPECT_TRUE(contains(failure, std::to_string(bad))) << failure.message;
  }
  const Failure type =
      failure_of_parsing(header(0, 1) + entry("general.alignment", 5, bytes_of<int32_t>(32)));
  EXPECT_TRUE(contains(type, "'general.alignment': wants u32, has i32")) << type.message;
  const std::string twice = u32_entry("general.alignment", 32) + u32_entry("general.alignment", 64);
  EXPECT_TRUE(contains(failure_of_parsing(header(0, 2) + twice), "is given twice"));
}

// A33, B25
TEST(ReaderTest, StopsWhenCancelledAndSaysWhoDidIt) {
  const std::string bytes = complete_file();
  CallHooks by_caller;
  by_caller.cancel.cancel();
  EXPECT_EQ(failure_of([&] { parse_bytes(bytes, by_caller); }).kind, ErrorKind::kCancelled);
  CallHooks by_clock;
  by_clock.cancel.cancel_after(0);
  EXPECT_EQ(failure_of([&] { parse_bytes(bytes, by_clock); }).kind, ErrorKind::kDeadline);
}

// A33: a header of 8 MiB is cut short in the middle, by the token and by what tick throws.
TEST(ReaderTest, StopsInTheMiddleOfALongHeader) {
  const size_t n = 1 << 20;
  const std::string bytes =
      header(0, 1) + array_entry("k", 10, n, std::string(n * sizeof(uint64_t), '\x07'));
  uint64_t last = 0;
  CallHooks hooks;
  hooks.tick = [&](const char* stage, unsigned long long done, unsigned long long total) {
    EXPECT_STREQ(stage, "header");
    EXPECT_EQ(total, bytes.size());
    EXPECT_GE(done, last);
    last = done;
    hooks.cancel.cancel();
  };
  EXPECT_EQ(failure_of([&] { parse_bytes(bytes, hooks); }).kind, ErrorKind::kCancelled);
  EXPECT_LT(last, bytes.size());

  CallHooks throwing;
  throwing.tick = [](const char*, unsigned long long, unsigned long long) { throw 42; };
  EXPECT_THROW(parse_bytes(bytes, throwing), int);
}

}  // namespace
}  // namespace smallmind::gguf
