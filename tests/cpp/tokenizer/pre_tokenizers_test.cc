// The table of pre-tokenizers, against pieces worked out by hand from the published patterns.
#include "tokenizer/pre_tokenizers.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <string>
#include <vector>

#include "tokenizer/unicode_tables.h"

namespace smallmind {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(std::string_view name, std::string_view text) {
  const PreTokenizer* row = find_pre_tokenizer(name);
  EXPECT_NE(row, nullptr) << name;
  Pieces found;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = piece_end(*row, text, begin);
    EXPECT_GT(end, begin);
    found.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return found;
}

TEST(UnicodeTablesTest, KnowTheClassesOfSomeCharacters) {
  EXPECT_EQ(char_class(U'a'), CharClass::kLetter);
  EXPECT_EQ(char_class(U'\u00DF'), CharClass::kLetter);
  EXPECT_EQ(char_class(U'\u4E2D'), CharClass::kLetter);
  EXPECT_EQ(char_class(U'7'), CharClass::kNumber);
  EXPECT_EQ(char_class(U'\u00BD'), CharClass::kNumber);
  EXPECT_EQ(char_class(U'\u0967'), CharClass::kNumber);
  EXPECT_EQ(char_class(U'\u0085'), CharClass::kSpace);
  EXPECT_EQ(char_class(U'\u3000'), CharClass::kSpace);
  EXPECT_EQ(char_class(U'\u200B'), CharClass::kOther);
  EXPECT_EQ(char_class(U'\u001C'), CharClass::kOther);
  EXPECT_EQ(char_class(U'\u0301'), CharClass::kOther);
  EXPECT_EQ(char_class(U'\U0001F600'), CharClass::kOther);
  EXPECT_EQ(char_class(U'\U0010FFFF'), CharClass::kOther);
}

TEST(PreTokenizersTest, HaveNoRowOfAnUnknownName) {  // G-44
  EXPECT_EQ(find_pre_tokenizer("xyz"), nullptr);
  EXPECT_EQ(find_pre_tokenizer(""), nullptr);
  EXPECT_EQ(find_pre_tokenizer("gpt-2 "), nullptr);
}

TEST(PreTokenizersTest, CutGpt2Text) {
  EXPECT_EQ(pieces("gpt-2", "Hello world's end"), (Pieces{"Hello", " world", "'s", " end"}));
  EXPECT_EQ(pieces("gpt-2", "I'VE we'll"), (Pieces{"I", "'", "VE", " we", "'ll"}));
  EXPECT_EQ(pieces("gpt-2", "a1b22 333"), (Pieces{"a", "1", "b", "22", " 333"}));
  EXPECT_EQ(pieces("gpt-2", "x  y\n\n z"), (Pieces{"x", " ", " y", "\n\n", " z"}));
  EXPECT_EQ(pieces("gpt-2", "x \n"), (Pieces{"x", " \n"}));
  EXPECT_EQ(pieces("gpt-2", "!!'s ..."), (Pieces{"!!'", "s", " ..."}));
  EXPECT_EQ(pieces("gpt-2", "a\u3000\u3000b"), (Pieces{"a", "\u3000", "\u3000", "b"}));
}

TEST(PreTokenizersTest, CutSmollmNumbersFirst) {
  EXPECT_EQ(pieces("smollm", "a 123"), (Pieces{"a", " ", "1", "2", "3"}));
  EXPECT_EQ(pieces("smollm", "x  5"), (Pieces{"x", "  ", "5"}));
  EXPECT_EQ(pieces("smollm", "x  y"), (Pieces{"x", " ", " y"}));
  EXPECT_EQ(pieces("smollm", "\u00BD\u0967z"), (Pieces{"\u00BD", "\u0967", "z"}));
}

TEST(PreTokenizersTest, CutLlamaBpeText) {
  EXPECT_EQ(pieces("llama-bpe", "I'VE (we'Ll"), (Pieces{"I", "'VE", " (", "we", "'Ll"}));
  EXPECT_EQ(pieces("llama-bpe", "12345 67"), (Pieces{"123", "45", " ", "67"}));
  EXPECT_EQ(pieces("llama-bpe", "\tfoo(bar"), (Pieces{"\tfoo", "(bar"}));
  EXPECT_EQ(pieces("llama-bpe", "\nfoo"), (Pieces{"\n", "foo"}));
  EXPECT_EQ(pieces("llama-bpe", "x ;\n\n  y"), (Pieces{"x", " ;\n\n", " ", " y"}));
  EXPECT_EQ(pieces("llama-bpe", "x  \n \n  y"), (Pieces{"x", "  \n \n", " ", " y"}));
  EXPECT_EQ(pieces("llama-bpe", "x   "), (Pieces{"x", "   "}));
  // Case folding makes the long s an s.
  EXPECT_EQ(pieces("llama-bpe", "a'\u017Fx"), (Pieces{"a", "'\u017F", "x"}));
}

TEST(PreTokenizersTest, CutQwen2NumbersOneByOne) {
  EXPECT_EQ(pieces("qwen2", "a12 3"), (Pieces{"a", "1", "2", " ", "3"}));
  EXPECT_EQ(pieces("qwen2", "'tis 'S"), (Pieces{"'t", "is", " '", "S"}));
}

// A run of one class, cut by every row in a thread that has 64 KiB of stack.
void* scan_long_runs(void*) {
  constexpr size_t kCharacters = 10'000'000;
  static const std::string kClasses[] = {"A", "7", " ", "\n", "!", "\u4E2D", "\u3000", "'"};
  for (const std::string& unit : kClasses) {
    std::string text;
    text.reserve(kCharacters * unit.size());
    for (size_t i = 0; i < kCharacters; ++i) text += unit;
    for (const PreTokenizer& row : pre_tokenizers()) {
      for (size_t begin = 0; begin < text.size();) begin = piece_end(row, text, begin);
    }
  }
  return nullptr;
}

TEST(PreTokenizersTest, ScanTenMillionCharactersOfOneClassOnASmallStack) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 64 << 10), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, scan_long_runs, nullptr), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

}  // namespace
}  // namespace smallmind
