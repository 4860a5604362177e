// The tokenizer as a whole, on small vocabularies.
#include "smallmind/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "vocab_file.h"

namespace smallmind {
namespace {

using Ids = std::vector<int32_t>;

std::string bool_entry(std::string_view key, bool value) {
  return gguf::entry(key, 7, std::string(1, value ? '\1' : '\0'));
}

TEST(TokenizerTest, PutsASpaceBeforeATextAndAfterSpecialTokens) {
  VocabFile file = metaspace_file();
  const int32_t space = file.add("\u2581", 1, -3);
  const int32_t a = file.add("a", 1, -4);
  const int32_t space_a = file.add("\u2581a", 1, -1);
  const auto tokenizer = file.tokenizer();
  EXPECT_EQ(tokenizer->encode("a", true, false), (Ids{1, space_a}));
  EXPECT_EQ(tokenizer->encode("", true, false), (Ids{1}));
  EXPECT_EQ(tokenizer->encode("a</s>a", false, true), (Ids{space_a, 2, space_a}));
  EXPECT_EQ(tokenizer->encode(" a", false, false), (Ids{space, space_a}));
  for (const char* text : {"a", " a", "a a", "  ", "", "aa\n"}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, true, false), true), text);
  }
  file.entries.push_back(bool_entry("tokenizer.ggml.add_space_prefix", false));
  const auto bare = file.tokenizer();
  EXPECT_EQ(bare->encode("a</s>a", false, true), (Ids{a, 2, a}));
  EXPECT_EQ(bare->decode(Ids{space_a}, true), " a");
}

TEST(TokenizerTest, AddsWhatTheFileSays) {
  VocabFile file = metaspace_file();
  const int32_t space = file.add("\u2581", 1, -3);
  EXPECT_TRUE(file.tokenizer()->add_bos());
  file.entries.push_back(bool_entry("tokenizer.ggml.add_eos_token", true));
  EXPECT_EQ(file.tokenizer()->encode("\u2581", true, false), (Ids{1, space, space, 2}));
  file.entries.push_back(bool_entry("tokenizer.ggml.add_bos_token", false));
  EXPECT_EQ(file.tokenizer()->encode("", true, false), (Ids{2}));
}

TEST(TokenizerTest, AddsBosByDefaultWhereThePreTokenizerDoes) {
  VocabFile file = byte_level_file();
  file.add("<bos>", 3);
  file.entries = {gguf::u32_entry("tokenizer.ggml.bos_token_id", 256)};
  EXPECT_FALSE(file.tokenizer()->add_bos());
  file.pre = "llama-bpe";
  EXPECT_TRUE(file.tokenizer()->add_bos());
  EXPECT_EQ(file.tokenizer()->encode("", true, false), (Ids{256}));
  EXPECT_EQ(file.tokenizer()->encode("", false, false), Ids{});
}

TEST(TokenizerTest, ParsesControlTokensOnlyWhenAsked) {
  VocabFile file = byte_level_file();
  const int32_t end = file.add("<|im_end|>", 3);
  const int32_t tool = file.add("<tool>", 4);
  const auto tokenizer = file.tokenizer();
  EXPECT_EQ(tokenizer->encode("<|im_end|>", false, true), (Ids{end}));
  EXPECT_EQ(tokenizer->encode("<|im_end|>", false, false).size(), 10u);
  EXPECT_EQ(tokenizer->encode("<tool>", false, false), (Ids{tool}));
  const size_t marks[] = {3};
  EXPECT_EQ(tokenizer->encode("<|im_end|><|im_end|>", false, true, marks).size(), 11u);
  EXPECT_EQ(tokenizer->encode("<|im_end|><|im_end|>", false, true, marks).back(), end);
  EXPECT_EQ(tokenizer->control_texts(), std::vector<std::string>{"<|im_end|>"});
  EXPECT_TRUE(tokenizer->is_control(end));
  EXPECT_FALSE(tokenizer->is_control(tool));
  EXPECT_FALSE(tokenizer->is_control(-1));
  EXPECT_FALSE(tokenizer->is_control(1000));
}

TEST(TokenizerTest, KnowsTheTokensThatEndAGeneration) {
  VocabFile file = byte_level_file();
  const int32_t eos = file.add("[stop]", 3);
  const int32_t eot = file.add("[turn]", 3);
  const int32_t end = file.add("<|im_end|>", 3);
  const int32_t html = file.add("</s>", 4);  // in some vocabularies a piece of HTML
  const int32_t other = file.add("<|im_start|>", 3);
  file.entries = {gguf::u32_entry("tokenizer.ggml.eos_token_id", 256),
                  gguf::u32_entry("tokenizer.ggml.eot_token_id", 257)};
  const auto tokenizer = file.tokenizer();
  for (const int32_t id : {eos, eot, end}) EXPECT_TRUE(tokenizer->is_end_of_generation(id)) << id;
  for (const int32_t id : {html, other, 0, -1, 99'999}) {
    EXPECT_FALSE(tokenizer->is_end_of_generation(id)) << id;
  }
  EXPECT_EQ(tokenizer->end_ids(), (std::vector<int32_t>{eos, eot, end}));
  EXPECT_EQ(tokenizer->eos_id(), eos);
  EXPECT_EQ(tokenizer->bos_id(), -1);
}

TEST(TokenizerTest, GivesTheBytesOfTokens) {
  VocabFile file = byte_level_file();
  file.add("\u0120a");  // the coding of " a"
  file.merges = {"\u0120 a"};
  const auto tokenizer = file.tokenizer();
  EXPECT_EQ(tokenizer->token_bytes(256), " a");
  EXPECT_EQ(tokenizer->token_bytes(0xFF), "\xFF");
  EXPECT_EQ(tokenizer->encode(" a", false, false), (Ids{256}));
}

TEST(TokenizerTest, RefusesBadTextAndBadIds) {
  const auto tokenizer = byte_level_file().tokenizer();
  for (const char* text :
       {"ab\xFF", "ab\xC0\x80", "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80", "ab\xE2"}) {
    const gguf::Failure failure = gguf::failure_of([&] { tokenizer->encode(text, true, true); });
    EXPECT_EQ(failure.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(contains(failure, "byte 2")) << failure.message;
  }
  for (const int32_t id : {-1, 256, 2'147'483'647, -2'147'483'647}) {
    const gguf::Failure failure = gguf::failure_of([&] { tokenizer->decode(Ids{1, id}, true); });
    EXPECT_EQ(failure.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(contains(failure, "ids[1]")) << failure.message;
    EXPECT_TRUE(contains(failure, std::to_string(id))) << failure.message;
  }
}

TEST(TokenizerTest, RefusesATextOverTheLimit) {
  const auto tokenizer = byte_level_file().tokenizer();
  const std::string text((64 << 20) + 1, 'a');
  const gguf::Failure failure = gguf::failure_of([&] { tokenizer->encode(text, true, true); });
  EXPECT_EQ(failure.kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(contains(failure, "67108865")) << failure.message;
}

TEST(TokenizerTest, KeepsNulBytesMarksAndJoiners) {
  const auto tokenizer = byte_level_file().tokenizer();
  std::string marks = "a";
  for (int i = 0; i < 100'000; ++i) marks += "\u0301";
  for (const std::string& text : {std::string("a\0b", 3), std::string("\uFEFFx"), marks}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, true, false), true), text);
  }
}

// Ten times the time on twice the text would be quadratic; the bound leaves room for a busy
// machine.
TEST(TokenizerTest, TakesNearlyLinearTimeOnOnePiece) {
  VocabFile bpe = byte_level_file();
  VocabFile spm = metaspace_file();
  std::string run = "a";
  spm.add("a", 1, -100);
  for (int i = 0; i < 8; ++i) {
    bpe.merges.push_back(run + " " + run);
    run += run;
    bpe.add(run);
    spm.add(run, 1, static_cast<float>(i) - 50);
  }
  for (const VocabFile* file : {&bpe, &spm}) {
    const auto tokenizer = file->tokenizer();
    const auto seconds = [&](size_t n) {
      const std::string text(n, 'a');
      const auto start = std::chrono::steady_clock::now();
      EXPECT_LT(tokenizer->encode(text, false, false).size(), n / 200);
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    seconds(100'000);
    EXPECT_LT(seconds(1'600'000), 30 * seconds(200'000) + 0.5);
  }
}

}  // namespace
}  // namespace smallmind
