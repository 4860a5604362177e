// Special tokens in a text, against looking at every place for every token.
#include "tokenizer/special_tokens.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <tuple>
#include <vector>

namespace smallmind {
namespace {

using Found = std::vector<std::tuple<size_t, size_t, int32_t>>;

Found found(const SpecialTokens& special, std::string_view text, bool parse_control,
            const std::vector<size_t>& marks) {
  Found out;
  for (const SpecialMatch& match : special.find(text, parse_control, marks)) {
    out.emplace_back(match.begin, match.end, match.id);
  }
  return out;
}

Found look_everywhere(const Vocab& vocab, std::string_view text, bool parse_control,
                      const std::vector<size_t>& marks) {
  Found out;
  for (size_t at = 0; at < text.size();) {
    int32_t best = Vocab::kNone;
    for (int32_t id = 0; id < vocab.size(); ++id) {
      const std::string_view wanted = vocab.bytes(id);
      bool allowed = vocab.type(id) == TokenType::kUserDefined;
      if (vocab.is_control(id)) {
        allowed = parse_control;
        for (const size_t mark : marks) {
          if (mark > at && mark < at + wanted.size()) allowed = false;
        }
      }
      if (!allowed || wanted.empty() || text.substr(at, wanted.size()) != wanted) continue;
      if (best == Vocab::kNone || wanted.size() > vocab.bytes(best).size()) best = id;
    }
    if (best == Vocab::kNone) {
      ++at;
      continue;
    }
    out.emplace_back(at, at + vocab.bytes(best).size(), best);
    at += vocab.bytes(best).size();
  }
  return out;
}

TEST(SpecialTokensTest, AreTheLeftmostLongestOnesAllowed) {
  std::mt19937 random(3);
  const auto draw = [&](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text += "ab<"[random() % 3];
    return text;
  };
  for (int round = 0; round < 200; ++round) {
    Vocab vocab;
    vocab.reserve(30, 1000);
    std::vector<std::string> texts;
    while (vocab.size() < 12) {
      const std::string text = draw(1 + random() % 5);
      if (std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
      texts.push_back(text);
      constexpr TokenType kTypes[] = {TokenType::kControl, TokenType::kUserDefined,
                                      TokenType::kUnknown, TokenType::kNormal};
      const TokenType type = kTypes[random() % 4];
      vocab.add(text, type, type == TokenType::kNormal);
    }
    vocab.add("", TokenType::kControl, false);
    ASSERT_EQ(vocab.index().first, Vocab::kNone);
    const SpecialTokens special(vocab);
    for (int i = 0; i < 10; ++i) {
      const std::string text = draw(random() % 60);
      std::vector<size_t> marks;
      for (size_t at = 0; at <= text.size(); ++at) {
        if (random() % 6 == 0) marks.push_back(at);
      }
      for (const bool parse : {false, true}) {
        EXPECT_EQ(found(special, text, parse, {}), look_everywhere(vocab, text, parse, {})) << text;
        EXPECT_EQ(found(special, text, parse, marks), look_everywhere(vocab, text, parse, marks))
            << text;
      }
    }
  }
}

TEST(SpecialTokensTest, StayTextUnderAMarkInside) {
  Vocab vocab;
  vocab.reserve(1, 10);
  vocab.add("<end>", TokenType::kControl, false);
  vocab.index();
  const SpecialTokens special(vocab);
  EXPECT_EQ(found(special, "x<end>", true, {}), (Found{{1, 6, 0}}));
  EXPECT_EQ(found(special, "x<end>", false, {}), Found{});
  EXPECT_EQ(found(special, "x<end>", true, {1, 6}), (Found{{1, 6, 0}}));
  for (size_t mark = 2; mark < 6; ++mark) {
    EXPECT_EQ(found(special, "x<end>", true, {mark}), Found{}) << mark;
  }
}

TEST(SpecialTokensTest, TakeLinearTimeOnNestedTexts) {
  Vocab vocab;
  vocab.reserve(2, 10'000);
  vocab.add(std::string(4000, 'a') + "b", TokenType::kControl, false);
  vocab.add("b" + std::string(4000, 'a'), TokenType::kControl, false);
  vocab.index();
  const SpecialTokens special(vocab);
  // Trying each token at each place would be 3 * 10^10 steps.
  const std::string text(8 << 20, 'a');
  EXPECT_TRUE(special.find(text, true, {}).empty());
  EXPECT_EQ(special.find(text + "b", true, {}).size(), 1u);
}

}  // namespace
}  // namespace smallmind
