// Text as it comes, never half a character.
#include "tokenizer/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "vocab_file.h"

namespace smallmind {
namespace {

// A vocabulary that adds a space before a text: bytes, the space and two words.
struct Spm {
  VocabFile file = metaspace_file();
  int32_t space = file.add("\u2581", 1, -3);
  int32_t hi = file.add("\u2581hi", 1, -1);
  int32_t bare_hi = file.add("hi", 1, -2);
  int32_t tool = file.add("<tool>", 4);
  std::shared_ptr<const Tokenizer> tokenizer = file.tokenizer();
  static int32_t byte(uint8_t value) { return 3 + value; }
};

TEST(StreamDecoderTest, HoldsEveryCharacterUntilItIsWhole) {
  const Spm spm;
  for (const std::string& character : {std::string("\u00E9"), std::string("\u4E2D"),
                                       std::string("\U0001F600"), std::string("\U0010FFFF")}) {
    StreamDecoder decoder(*spm.tokenizer);
    for (size_t i = 0; i < character.size(); ++i) {
      const std::string text = decoder.push(Spm::byte(static_cast<uint8_t>(character[i])));
      EXPECT_EQ(text, i + 1 == character.size() ? character : "");
    }
    EXPECT_EQ(decoder.flush(), "");
  }
}

TEST(StreamDecoderTest, ReplacesAnIncompleteTail) {
  const Spm spm;
  StreamDecoder decoder(*spm.tokenizer);
  EXPECT_EQ(decoder.push(Spm::byte(0xF0)), "");
  EXPECT_EQ(decoder.push(Spm::byte(0x9F)), "");
  EXPECT_EQ(decoder.push(Spm::byte(0x98)), "");
  StreamDecoder copy = decoder;
  EXPECT_EQ(copy.flush(), "\uFFFD");
  EXPECT_EQ(decoder.push(Spm::byte(0x80)), "\U0001F600");  // the copy did not disturb it
  EXPECT_EQ(decoder.push(Spm::byte(0xE2)), "");
  EXPECT_EQ(decoder.push(spm.bare_hi), "\uFFFDhi");
}

TEST(StreamDecoderTest, GivesWhatDecodeGivesOnAnyBytes) {
  const Spm spm;
  std::mt19937 random(5);
  constexpr uint8_t kHard[] = {0x00, 0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xA0, 0xED,
                               0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xF5, 0xFF, 0xE2, 0x98};
  for (int round = 0; round < 20'000; ++round) {
    StreamDecoder decoder(*spm.tokenizer);
    std::vector<int32_t> ids;
    std::string bytes;
    std::string streamed;
    const size_t n = 1 + random() % 8;
    for (size_t i = 0; i < n; ++i) {
      const uint8_t byte = kHard[random() % sizeof kHard];
      ids.push_back(Spm::byte(byte));
      bytes.push_back(static_cast<char>(byte));
      const std::string text = decoder.push(ids.back());
      ASSERT_EQ(find_invalid_utf8(text), std::string::npos);
      streamed += text;
    }
    streamed += decoder.flush();
    ASSERT_EQ(streamed, to_valid_utf8(bytes));
    ASSERT_EQ(streamed, spm.tokenizer->decode(ids, true));
  }
}

TEST(StreamDecoderTest, KeepsTheLeadingSpaceOfAContinuation) {
  const Spm spm;
  StreamDecoder decoder(*spm.tokenizer);
  EXPECT_EQ(decoder.push(spm.hi), " hi");
  EXPECT_EQ(decoder.push(spm.hi), " hi");
  StreamDecoder from_start(*spm.tokenizer, true, true);
  EXPECT_EQ(from_start.push(1), "");  // BOS, left out
  EXPECT_EQ(from_start.push(spm.hi), "hi");
  EXPECT_EQ(from_start.push(spm.hi), " hi");
}

TEST(StreamDecoderTest, WritesOrLeavesOutControlTokens) {
  const Spm spm;
  EXPECT_EQ(spm.tokenizer->decode(std::vector<int32_t>{1, spm.hi, 0, 2}, true), "hi");
  EXPECT_EQ(spm.tokenizer->decode(std::vector<int32_t>{1, spm.hi, 2}, false), "<s> hi</s>");
  EXPECT_EQ(spm.tokenizer->decode(std::vector<int32_t>{spm.tool, spm.hi}, true), "<tool> hi");
}

}  // namespace
}  // namespace smallmind
