#include "vocab_file.h"

#include <algorithm>
#include <array>

namespace smallmind {
namespace {

// Written from the definition: printable Latin-1 bytes stand for themselves, the others for the
// characters from U+0100 on.
std::string byte_character(int byte) {
  const auto is_printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  int code_point = byte;
  if (!is_printable(byte)) {
    code_point = 256;
    for (int b = 0; b < byte; ++b) code_point += is_printable(b) ? 0 : 1;
  }
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

}  // namespace

int32_t VocabFile::add(std::string text, int32_t type, float score) {
  tokens.push_back({std::move(text), type, score});
  return static_cast<int32_t>(tokens.size()) - 1;
}

int32_t VocabFile::id_of(std::string_view text) const {
  const auto at = std::find_if(tokens.begin(), tokens.end(),
                               [&](const VocabToken& token) { return token.text == text; });
  return at == tokens.end() ? -1 : static_cast<int32_t>(at - tokens.begin());
}

std::string VocabFile::bytes() const {
  using namespace gguf;
  std::vector<std::string> all = {string_entry("tokenizer.ggml.model", model)};
  if (!pre.empty()) all.push_back(string_entry("tokenizer.ggml.pre", pre));
  std::string texts;
  std::string types;
  std::string scores;
  for (const VocabToken& token : tokens) {
    texts += string_bytes(token.text);
    types += bytes_of(token.type);
    scores += bytes_of(token.score);
  }
  all.push_back(array_entry("tokenizer.ggml.tokens", 8, tokens.size(), texts));
  const auto changed = [&](std::string values, int more) {
    values.resize(values.size() + static_cast<size_t>(more) * 4, '\1');
    return values;
  };
  const auto count = [&](int more) { return tokens.size() + static_cast<size_t>(more); };
  if (has_types) {
    all.push_back(array_entry("tokenizer.ggml.token_type", 5, count(n_types_more),
                              changed(types, n_types_more)));
  }
  if (has_scores) {
    all.push_back(array_entry("tokenizer.ggml.scores", 6, count(n_scores_more),
                              changed(scores, n_scores_more)));
  }
  if (has_merges) {
    std::string lines;
    for (const std::string& line : merges) lines += string_bytes(line);
    all.push_back(array_entry("tokenizer.ggml.merges", 8, merges.size(), lines));
  }
  all.insert(all.end(), entries.begin(), entries.end());
  std::string out = header(0, all.size());
  for (const std::string& one : all) out += one;
  return out;
}

std::shared_ptr<const Tokenizer> VocabFile::tokenizer() const {
  return Tokenizer::from_metadata(gguf::parse_bytes(bytes()).metadata);
}

VocabFile byte_level_file() {
  VocabFile file;
  for (int byte = 0; byte < 256; ++byte) file.add(byte_character(byte));
  return file;
}

VocabFile metaspace_file() {
  VocabFile file;
  file.model = "llama";
  file.pre = "default";
  file.has_scores = true;
  file.has_merges = false;
  file.add("<unk>", 2);
  file.add("<s>", 3);
  file.add("</s>", 3);
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte) {
    file.add(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">", 6);
  }
  file.entries = {gguf::u32_entry("tokenizer.ggml.bos_token_id", 1),
                  gguf::u32_entry("tokenizer.ggml.eos_token_id", 2)};
  return file;
}

}  // namespace smallmind
