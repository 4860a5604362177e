#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace smallmind {
namespace {

constexpr size_t kValid = std::string_view::npos;

bool is_scalar_value(char32_t c) { return c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF); }

// By the definition: every scalar value's bytes, written by arithmetic, are well-formed and decode
// to it.
TEST(Utf8Test, EveryScalarValueGoesThereAndBack) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (!is_scalar_value(c)) continue;
    std::string bytes;
    append_utf8(bytes, c);
    ASSERT_EQ(find_invalid_utf8(bytes), kValid) << std::hex << uint32_t{c};
    size_t at = 0;
    ASSERT_EQ(next_code_point(bytes, at), c);
    ASSERT_EQ(at, bytes.size());
  }
}

// All 16.8 million three-byte strings against the definition would take long; all two-byte strings
// and all three-byte strings with an interesting lead do not.
bool is_well_formed_by_definition(const std::string& bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const auto lead = static_cast<uint8_t>(bytes[at]);
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xC0 && lead < 0xE0 ? 2
                          : lead >= 0xE0 && lead < 0xF0 ? 3
                          : lead >= 0xF0 && lead < 0xF8 ? 4
                                                        : 0;
    if (length == 0 || at + length > bytes.size()) return false;
    char32_t value = length == 1 ? lead : lead & (0x7Fu >> length);
    for (size_t i = 1; i < length; ++i) {
      const auto next = static_cast<uint8_t>(bytes[at + i]);
      if ((next & 0xC0) != 0x80) return false;
      value = value << 6 | (next & 0x3F);
    }
    const char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < least[length] || !is_scalar_value(value)) return false;
    at += length;
  }
  return true;
}

TEST(Utf8Test, AgreesWithTheDefinitionOnShortStrings) {
  for (unsigned a = 0; a < 256; ++a) {
    for (unsigned b = 0; b < 256; ++b) {
      const std::string two = {static_cast<char>(a), static_cast<char>(b)};
      ASSERT_EQ(find_invalid_utf8(two) == kValid, is_well_formed_by_definition(two)) << a << b;
      for (const unsigned c : {0x00u, 0x7Fu, 0x80u, 0x8Fu, 0x9Fu, 0xA0u, 0xBFu, 0xC0u, 0xFFu}) {
        const std::string three = two + static_cast<char>(c);
        ASSERT_EQ(find_invalid_utf8(three) == kValid, is_well_formed_by_definition(three));
        const std::string four = three + '\x80';
        ASSERT_EQ(find_invalid_utf8(four) == kValid, is_well_formed_by_definition(four));
      }
    }
  }
}

TEST(Utf8Test, NamesTheFirstBadByte) {
  EXPECT_EQ(find_invalid_utf8(""), kValid);
  EXPECT_EQ(find_invalid_utf8("0123456789abcdef\xFFz"), 16u);
  EXPECT_EQ(find_invalid_utf8("caf\xC3"), 3u);
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);      // a surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("\xC0\x80"), 0u);          // an overlong NUL
}

// At every place of the words of eight bytes that are looked at together.
TEST(Utf8Test, FindsABadByteBehindAnyNumberOfPlainOnes) {
  for (size_t n_before = 0; n_before <= 17; ++n_before) {
    const std::string before(n_before, 'a'), behind(8, 'z');
    EXPECT_EQ(find_invalid_utf8(before + "\xFF" + behind), n_before);
    EXPECT_EQ(find_invalid_utf8(before + "\xE2\x96" + behind), n_before);
    EXPECT_EQ(find_invalid_utf8(before + "\xE2\x96\x81" + behind), kValid);
    EXPECT_EQ(find_invalid_utf8(before + "\xC3\xA9" + behind + "\x80"), n_before + 10);
  }
}

// The Unicode standard's example of maximal parts (chapter 3.9, table 3-8).
TEST(Utf8Test, ReplacesEachMaximalBadPartOnce) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(to_valid_utf8("a\xF1\x80\x80\xE1\x80\xC2"
                          "b\x80"
                          "c\x80\xBF"
                          "d"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(to_valid_utf8("\xE2\x82\xAC\xE2\x82"), "\xE2\x82\xAC" + r);
  EXPECT_EQ(to_valid_utf8("plain"), "plain");
}

// G-71, oracle U (g).
TEST(EscapeTest, LetsNothingButPrintableAsciiThrough) {
  std::string all;
  for (unsigned c = 0; c < 256; ++c) all += static_cast<char>(c);
  const std::string escaped = escape(all, 10'000);
  for (const char c : escaped) EXPECT_TRUE(c >= 0x20 && c < 0x7F);
  EXPECT_NE(escaped.find("\\x1b"), std::string::npos);
  EXPECT_EQ(escape("a\nb\tc"), "a\\nb\\tc");
  EXPECT_EQ(escape("\xE2\x80\xAE"), "\\xe2\\x80\\xae");  // a right-to-left override
}

TEST(EscapeTest, CutsBetweenEscapesAndSaysSo) {
  EXPECT_EQ(escape("abcdef", 6), "abcdef");
  EXPECT_EQ(escape("abcdefg", 6), "abcdef...");
  EXPECT_EQ(escape("abcd\x01", 6), "abcd...");
  EXPECT_LE(escape(std::string(1 << 20, '\xFF')).size(), 83u);
}

}  // namespace
}  // namespace smallmind
