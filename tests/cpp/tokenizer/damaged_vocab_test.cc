// Wrong tokenizer metadata: a typed error that names the key and the value.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "vocab_file.h"

namespace smallmind {
namespace {

constexpr auto kFormat = ErrorKind::kModelFormat;

void expect_failure(const VocabFile& file, ErrorKind kind, std::string_view key,
                    std::string_view value) {
  const gguf::Failure failure = gguf::failure_of([&] { file.tokenizer(); });
  EXPECT_EQ(failure.kind, kind) << failure.message;
  EXPECT_TRUE(contains(failure, key)) << failure.message;
  EXPECT_TRUE(contains(failure, value)) << failure.message;
  EXPECT_LE(failure.message.size(), 400u);
  for (const char c : failure.message) EXPECT_TRUE(c >= ' ' && c <= '~') << failure.message;
}

std::string true_entry(std::string_view key) { return gguf::entry(key, 7, std::string(1, '\1')); }

TEST(DamagedVocabTest, ArraysOfDifferentLengths) {  // G-21
  for (const int more : {-1, 1}) {
    VocabFile types = byte_level_file();
    types.n_types_more = more;
    expect_failure(types, kFormat, "token_type", std::to_string(256 + more));
    for (VocabFile scores : {byte_level_file(), metaspace_file()}) {
      scores.has_scores = true;
      scores.n_scores_more = more;
      expect_failure(scores, kFormat, "scores",
                     std::to_string(static_cast<int>(scores.tokens.size()) + more));
    }
  }
  VocabFile none = metaspace_file();
  none.n_scores_more = -static_cast<int>(none.tokens.size());
  expect_failure(none, kFormat, "scores", "0 values");
}

TEST(DamagedVocabTest, KeysThatAreAbsent) {
  VocabFile file = byte_level_file();
  file.has_types = false;
  expect_failure(file, kFormat, "tokenizer.ggml.token_type", "absent");
  file = byte_level_file();
  file.has_merges = false;
  expect_failure(file, kFormat, "tokenizer.ggml.merges", "absent");
  file = metaspace_file();
  file.has_scores = false;
  expect_failure(file, kFormat, "tokenizer.ggml.scores", "absent");
  file = byte_level_file();
  file.tokens.clear();
  expect_failure(file, kFormat, "tokenizer.ggml.tokens", "no token");
}

TEST(DamagedVocabTest, ArraysOfNarrowTypes) {  // G-20
  VocabFile file = byte_level_file();
  file.has_types = false;
  file.entries = {gguf::array_entry("tokenizer.ggml.token_type", 0, 256, std::string(256, '\1'))};
  expect_failure(file, kFormat, "tokenizer.ggml.token_type", "u8");
  file = metaspace_file();
  file.has_scores = false;
  file.entries.push_back(
      gguf::array_entry("tokenizer.ggml.scores", 0, 259, std::string(259, '\1')));
  expect_failure(file, kFormat, "tokenizer.ggml.scores", "u8");
}

TEST(DamagedVocabTest, SpecialIdsOutOfRange) {  // G-35
  for (const std::string name : {"bos", "eos", "eot", "eom", "unknown", "seperator", "padding",
                                 "mask", "cls", "fim_pre", "fim_pad"}) {
    for (const uint32_t id : {256u, 257u, 1u << 31, 0xFFFFFFFFu}) {
      VocabFile file = byte_level_file();
      const std::string key = "tokenizer.ggml." + name + "_token_id";
      file.entries = {gguf::u32_entry(key, id)};
      expect_failure(file, kFormat, key, std::to_string(id));
    }
  }
}

TEST(DamagedVocabTest, FlagsWithoutTheirIds) {  // G-36
  for (const std::string name : {"bos", "eos"}) {
    VocabFile file = byte_level_file();
    const std::string flag = "tokenizer.ggml.add_" + name + "_token";
    file.entries = {true_entry(flag)};
    expect_failure(file, kFormat, flag, "tokenizer.ggml." + name + "_token_id");
  }
  VocabFile file = metaspace_file();
  file.entries.clear();
  expect_failure(file, kFormat, "tokenizer.ggml.add_bos_token", "by default");
}

TEST(DamagedVocabTest, TokensThereTwice) {  // G-37
  for (const int32_t type : {1, 2, 3, 4, 5}) {
    VocabFile file = byte_level_file();
    file.add("A", type);
    expect_failure(file, kFormat, "tokenizer.ggml.tokens", "tokens 65 and 256");
  }
  VocabFile control = byte_level_file();
  control.add("<|end|>", 3);
  control.add("<|end|>", 4);
  expect_failure(control, kFormat, "tokenizer.ggml.tokens", "tokens 256 and 257");
  VocabFile bytes = metaspace_file();
  bytes.add("<0x41>", 1);
  expect_failure(bytes, kFormat, "tokenizer.ggml.tokens", "<0x41>");
  bytes = metaspace_file();
  bytes.add("<0x41>", 4);
  expect_failure(bytes, kFormat, "tokenizer.ggml.tokens", "<0x41>");
  bytes = metaspace_file();
  bytes.add("<0x41>", 6);
  expect_failure(bytes, kFormat, "tokenizer.ggml.tokens", "byte 65");
}

TEST(DamagedVocabTest, EmptyTokensOnlyWhereNoTextUsesThem) {  // G-37
  for (const int32_t type : {1, 4}) {
    VocabFile file = byte_level_file();
    file.add("", type);
    expect_failure(file, kFormat, "tokenizer.ggml.tokens", "token 256 is empty");
  }
  VocabFile file = byte_level_file();
  for (const int32_t type : {2, 3, 3, 5}) file.add("", type);
  const auto tokenizer = file.tokenizer();
  EXPECT_EQ(tokenizer->encode("a", true, true), std::vector<int32_t>{'a'});
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{256, 257, 'a', 259}, false), "a");
  EXPECT_TRUE(tokenizer->control_texts().empty());
}

TEST(DamagedVocabTest, TokensThatAreNotUtf8) {
  VocabFile file = byte_level_file();
  file.add("ab\xFF", 3);
  expect_failure(file, kFormat, "tokenizer.ggml.tokens", "ab\\xff");
}

TEST(DamagedVocabTest, NeighboursThatAreUtf8OnlyTogether) {
  VocabFile file = byte_level_file();
  file.add("good", 3);
  file.add("", 3);
  file.add("\xE2\x96", 3);
  file.add("\x81x", 3);
  expect_failure(file, kFormat, "tokenizer.ggml.tokens", "\\xe2\\x96");
}

TEST(DamagedVocabTest, TokensThatAreTooLong) {  // G-38
  for (const size_t length : {4097u, 65'536u, 1u << 20}) {
    VocabFile file = byte_level_file();
    file.add(std::string(length, 'x'));
    expect_failure(file, ErrorKind::kModelLimit, "tokens", "4096");
  }
}

TEST(DamagedVocabTest, ByteTokens) {  // G-39
  for (const std::string text :
       {"<0x-1>", "<0xZZ>", "<0x+f>", "<0X0a>", "<0x0a>", "<0x100>", "0x41", "<0x 1>", "<0x4>"}) {
    VocabFile file = metaspace_file();
    file.tokens[3 + 10].text = text;
    expect_failure(file, kFormat, "tokenizer.ggml.tokens", text);
  }
  VocabFile missing = metaspace_file();
  missing.tokens.pop_back();
  expect_failure(missing, kFormat, "tokenizer.ggml.tokens", "byte 255");
  missing.tokens.resize(3);
  expect_failure(missing, kFormat, "tokenizer.ggml.tokens", "byte 0");
  VocabFile level = byte_level_file();
  level.add("<0x41>", 6);
  expect_failure(level, kFormat, "tokenizer.ggml.tokens", "<0x41>");
}

TEST(DamagedVocabTest, Merges) {  // G-41
  for (const char* line : {"", "ab", "a", "a ", " a", " "}) {
    VocabFile file = byte_level_file();
    file.merges = {line};
    expect_failure(file, kFormat, "tokenizer.ggml.merges", "line 0");
  }
  VocabFile file = byte_level_file();
  file.merges = {"a b"};
  expect_failure(file, kFormat, "tokenizer.ggml.merges", "makes the token 'ab'");
  file.add("ab");
  file.merges = {"a b", "ab zz"};
  expect_failure(file, kFormat, "tokenizer.ggml.merges", "'zz'");
  file.merges = {"a b", "a b"};
  expect_failure(file, kFormat, "tokenizer.ggml.merges", "line 1");
  file.tokens.back().type = 3;
  file.merges = {"a b"};
  expect_failure(file, kFormat, "tokenizer.ggml.merges", "control");
}

TEST(DamagedVocabTest, TokenTypesOutOfRange) {  // G-42
  for (const int32_t type : {-1, 0, 7, std::numeric_limits<int32_t>::min()}) {
    VocabFile file = byte_level_file();
    file.tokens[9].type = type;
    expect_failure(file, kFormat, "tokenizer.ggml.token_type", std::to_string(type));
  }
}

TEST(DamagedVocabTest, ScoresThatAreNoNumbers) {  // G-43
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float score : {std::nanf(""), kInfinity, -kInfinity}) {
    VocabFile file = metaspace_file();
    file.tokens[7].score = score;
    expect_failure(file, kFormat, "tokenizer.ggml.scores", "token 7");
  }
}

TEST(DamagedVocabTest, KindsThatAreNotKnown) {  // G-44
  for (const char* model : {"xyz", "bert", "t5", "rwkv", "none", "GPT2", ""}) {
    VocabFile file = byte_level_file();
    file.model = model;
    expect_failure(file, ErrorKind::kUnsupportedModel, "tokenizer.ggml.model", model);
  }
  for (const char* pre : {"xyz", "default", "GPT-2", ""}) {
    VocabFile file = byte_level_file();
    file.pre = pre;
    expect_failure(file, ErrorKind::kUnsupportedModel, "tokenizer.ggml.pre", pre);
  }
  VocabFile file = metaspace_file();
  file.pre = "xyz";
  expect_failure(file, ErrorKind::kUnsupportedModel, "tokenizer.ggml.pre", "xyz");
  file.pre = "";
  EXPECT_NO_THROW(file.tokenizer());
}

TEST(DamagedVocabTest, TemplatesThatAreNotText) {  // G-49
  VocabFile file = byte_level_file();
  file.entries = {gguf::string_entry("tokenizer.chat_template", "x\xFF")};
  expect_failure(file, kFormat, "tokenizer.chat_template", "not UTF-8");
  file.entries = {gguf::u32_entry("tokenizer.chat_template", 1)};
  expect_failure(file, kFormat, "tokenizer.chat_template", "u32");
}

}  // namespace
}  // namespace smallmind
