// Merging against the definition carried out literally: the best pair of the whole piece, then the
// next.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "vocab_file.h"

namespace smallmind {
namespace {

std::string random_text(std::mt19937& random, std::string_view letters, size_t length) {
  std::string text;
  for (size_t i = 0; i < length; ++i) text += letters[random() % letters.size()];
  return text;
}

// A byte-level file over a few letters, with random merges.
VocabFile random_bpe(std::mt19937& random) {
  VocabFile file = byte_level_file();
  std::vector<std::string> parts = {"a", "b", "c", "d"};
  while (file.merges.size() < 40) {
    const std::string left = parts[random() % parts.size()];
    const std::string right = parts[random() % parts.size()];
    if (left.size() + right.size() > 9 || file.id_of(left + right) >= 0) continue;
    file.add(left + right);
    file.merges.push_back(left + " " + right);
    parts.push_back(left + right);
  }
  return file;
}

std::vector<int32_t> merge_literally(const VocabFile& file, const std::string& text) {
  std::map<std::string, size_t> ranks;
  for (size_t i = 0; i < file.merges.size(); ++i) ranks[file.merges[i]] = i;
  std::vector<std::string> symbols;
  for (const char c : text) symbols.emplace_back(1, c);
  for (;;) {
    size_t best = ranks.size();
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find(symbols[i] + " " + symbols[i + 1]);
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        at = i;
      }
    }
    if (best == ranks.size()) break;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) ids.push_back(file.id_of(symbol));
  return ids;
}

TEST(BpeTest, MergesAsDefinedOnShortAndLongPieces) {
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    const VocabFile file = random_bpe(random);
    const auto tokenizer = file.tokenizer();
    for (const size_t length : {1, 2, 5, 31, 32, 33, 34, 100, 400}) {
      const std::string text = random_text(random, "abcd", length);
      EXPECT_EQ(tokenizer->encode(text, false, false), merge_literally(file, text)) << text;
    }
  }
}

TEST(BpeTest, TakesAWholeTokenOnlyWhereTheTableSaysSo) {
  VocabFile file = byte_level_file();
  const int32_t whole = file.add("abc");
  const int32_t bc = file.add("bc");
  file.merges = {"b c"};
  EXPECT_EQ(file.tokenizer()->encode("abc", false, false),
            (std::vector<int32_t>{file.id_of("a"), bc}));
  file.pre = "llama-bpe";
  file.entries = {gguf::entry("tokenizer.ggml.add_bos_token", 7, std::string(1, '\0'))};
  EXPECT_EQ(file.tokenizer()->encode("abc", false, false), std::vector<int32_t>{whole});
}

TEST(BpeTest, NamesAByteWithoutAToken) {
  VocabFile file = byte_level_file();
  file.tokens[4].text = "[instead]";
  const auto tokenizer = file.tokenizer();
  const gguf::Failure failure =
      gguf::failure_of([&] { tokenizer->encode("fine \x04", false, false); });
  EXPECT_EQ(failure.kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(contains(failure, "byte 4")) << failure.message;
  EXPECT_TRUE(contains(failure, "offset 5")) << failure.message;

  const int32_t unknown = file.add("<unk>", 2);
  file.entries = {gguf::u32_entry("tokenizer.ggml.unknown_token_id", 256)};
  EXPECT_EQ(file.tokenizer()->encode("\x04", false, false), std::vector<int32_t>{unknown});
  // A control token never comes out of text, not even as the unknown one.
  file.tokens.back().type = 3;
  EXPECT_EQ(gguf::failure_of([&] { file.tokenizer()->encode("\x04", false, false); }).kind,
            ErrorKind::kInvalidArgument);
}

// A metaspace file over a few letters and the space; some tokens have a space inside.
VocabFile random_spm(std::mt19937& random) {
  VocabFile file = metaspace_file();
  file.entries.push_back(gguf::entry("tokenizer.ggml.add_space_prefix", 7, std::string(1, '\0')));
  const std::string kLetters = random() % 2 == 0 ? "ab_" : "ab_c";  // _ stands for the space
  const bool space_inside = random() % 2 == 0;
  const auto written = [](const std::string& text) {
    std::string out;
    for (const char c : text) out += c == '_' ? std::string("\u2581") : std::string(1, c);
    return out;
  };
  for (const char c : std::string("ab_")) {
    file.add(written(std::string(1, c)), 1, -1000);
  }
  while (file.tokens.size() < 310) {
    const std::string text = random_text(random, kLetters, 2 + random() % 5);
    const size_t inner = text.find('_', 1);
    if (!space_inside && inner != std::string::npos) continue;
    // Few different scores: ties are taken from the left.
    if (file.id_of(written(text)) < 0) {
      file.add(written(text), 1, -static_cast<float>(random() % 12));
    }
  }
  return file;
}

std::vector<int32_t> merge_by_score_literally(const VocabFile& file, const std::string& text) {
  std::vector<std::string> symbols;
  for (const char c : text) symbols.push_back(c == ' ' ? "\u2581" : std::string(1, c));
  for (;;) {
    int32_t best = -1;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const int32_t id = file.id_of(symbols[i] + symbols[i + 1]);
      if (id < 0) continue;
      const auto score = [&](int32_t token) {
        return file.tokens[static_cast<size_t>(token)].score;
      };
      if (best < 0 || score(id) > score(best)) {
        best = id;
        at = i;
      }
    }
    if (best < 0) break;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) {
    const int32_t id = file.id_of(symbol);
    ids.push_back(id >= 0 ? id : 3 + static_cast<uint8_t>(symbol[0]));  // the byte token
  }
  return ids;
}

TEST(SpmTest, MergesAsDefinedWithSpacesBetweenAndInsideTokens) {
  std::mt19937 random(11);
  for (int round = 0; round < 12; ++round) {
    const VocabFile file = random_spm(random);
    const auto tokenizer = file.tokenizer();
    for (const size_t length : {1, 3, 20, 33, 60, 250}) {
      const std::string text = random_text(random, "abcab  ", length);
      EXPECT_EQ(tokenizer->encode(text, false, false), merge_by_score_literally(file, text))
          << text;
    }
  }
}

TEST(SpmTest, WritesWhatIsLeftAsBytes) {
  VocabFile file = metaspace_file();
  file.add("\u2581", 1, -1);
  const auto tokenizer = file.tokenizer();
  const std::vector<int32_t> ids = tokenizer->encode("\u00E9", false, false);
  EXPECT_EQ(ids, (std::vector<int32_t>{259, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer->decode(ids, true), "\u00E9");
}

TEST(SpmTest, DoesNotMakeControlOrByteTokensOutOfText) {
  VocabFile file = metaspace_file();
  for (const char* text :
       {"<", "s", ">", "/", "0", "x", "4", "1", "<s", "</", "</s", "<0", "<0x", "<0x4", "<0x41"}) {
    file.add(text, 1, -1);
  }
  const auto tokenizer = file.tokenizer();
  for (const char* text : {"<s>", "</s>", "<0x41>", "<unk>"}) {
    for (const int32_t id : tokenizer->encode(text, false, false)) {
      EXPECT_FALSE(tokenizer->is_control(id)) << text;
      EXPECT_NE(id, 3 + 0x41) << text;
    }
  }
}

}  // namespace
}  // namespace smallmind
