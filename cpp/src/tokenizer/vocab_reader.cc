#include "tokenizer/vocab_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/number_text.h"
#include "base/utf8.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr size_t kMaxTokens = (1 << 24) - 2;  // ids share their slots with 8 bits of hash

[[noreturn]] void fail(std::string_view key, const std::string& why,
                       ErrorKind kind = ErrorKind::kModelFormat) {
  throw Error(kind, "key '" + std::string(key) + "': " + why);
}

std::string quoted(std::string_view text) { return "'" + escape(text) + "'"; }

void check_length(std::string_view key, size_t length, size_t n_tokens) {
  if (length == n_tokens) return;
  fail(key,
       "has " + std::to_string(length) + " values for " + std::to_string(n_tokens) + " tokens");
}

TokenType type_at(std::span<const int32_t> types, size_t i) {
  if (types[i] < 1 || types[i] > 6) {
    fail(kTypesKey,
         "token " + std::to_string(i) + " has type " + std::to_string(types[i]) + ", wants 1 to 6");
  }
  return static_cast<TokenType>(types[i]);
}

// Whether all texts are UTF-8: together they are, and none begins inside a character.
bool are_utf8(const gguf::StringArrayView& tokens) {
  const auto begins_inside = [&](uint32_t at) {
    return at < tokens.blob.size() && (static_cast<uint8_t>(tokens.blob[at]) & 0xC0) == 0x80;
  };
  return std::none_of(tokens.offsets.begin(), tokens.offsets.end(), begins_inside) &&
         find_invalid_utf8(tokens.blob) == std::string_view::npos;
}

void check_text(std::string_view text, size_t i, TokenType type, bool is_utf8) {
  const auto name = [i] { return "token " + std::to_string(i); };
  if (text.size() > gguf::kMaxTokenBytes) {
    fail(kTokensKey,
         name() + " has " + std::to_string(text.size()) + " bytes, the limit is " +
             std::to_string(gguf::kMaxTokenBytes),
         ErrorKind::kModelLimit);
  }
  const bool may_be_empty =
      type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUnused;
  if (text.empty() && !may_be_empty) fail(kTokensKey, name() + " is empty");
  if (!is_utf8 && find_invalid_utf8(text) != std::string_view::npos) {
    fail(kTokensKey, name() + " " + quoted(text) + " is not UTF-8");
  }
}

void add_byte_token(Vocab& vocab, std::string_view text, size_t i, TextCoding coding) {
  const int byte = parse_byte_token(text);
  if (coding != TextCoding::kMetaspace || byte < 0) {
    fail(kTokensKey, "byte token " + std::to_string(i) + " is " + quoted(text) +
                         (byte < 0 ? ", wants <0x00> to <0xFF>"
                                   : ", which this kind of tokenizer does not have"));
  }
  const char value = static_cast<char>(byte);
  vocab.add({&value, 1}, TokenType::kByte, false);
}

// A literal token may have a plain one's text; the index sees only texts of one kind.
int32_t find_plain_twin(const Vocab& vocab, TextCoding coding, std::string_view text,
                        std::string& buffer) {
  return decode_token_text(coding, text, buffer) ? vocab.find_plain(buffer) : Vocab::kNone;
}

void check_duplicates(Vocab& vocab, const gguf::StringArrayView& tokens, TextCoding coding) {
  Vocab::Duplicate duplicate = vocab.index();
  std::string buffer;
  for (int32_t id = 0; id < vocab.size() && duplicate.first == Vocab::kNone; ++id) {
    const std::string_view text = tokens[static_cast<size_t>(id)];
    if (vocab.is_plain(id) || text.empty()) continue;
    int32_t twin = find_plain_twin(vocab, coding, text, buffer);
    if (twin == Vocab::kNone && vocab.type(id) == TokenType::kByte) twin = vocab.find_literal(text);
    if (twin != Vocab::kNone) duplicate = {std::min(twin, id), std::max(twin, id)};
  }
  if (duplicate.first == Vocab::kNone) return;
  fail(kTokensKey, "tokens " + std::to_string(duplicate.first) + " and " +
                       std::to_string(duplicate.second) + " are both " +
                       quoted(tokens[static_cast<size_t>(duplicate.second)]));
}

int32_t read_id(const gguf::Metadata& metadata, std::string_view key, const Vocab& vocab) {
  const auto id = metadata.find_u32(key);
  if (!id) return Vocab::kNone;
  if (*id >= static_cast<uint32_t>(vocab.size())) {
    fail(key, "is " + std::to_string(*id) + ", the vocabulary has " + std::to_string(vocab.size()) +
                  " tokens");
  }
  return static_cast<int32_t>(*id);
}

}  // namespace

Vocab read_vocab(const gguf::Metadata& metadata, TextCoding coding) {
  const auto tokens = metadata.find_strings(kTokensKey);
  if (!tokens) fail(kTokensKey, "is absent");
  if (tokens->size() == 0) fail(kTokensKey, "has no token");
  if (tokens->size() > kMaxTokens || tokens->blob.size() > std::numeric_limits<uint32_t>::max()) {
    fail(kTokensKey,
         "has " + std::to_string(tokens->size()) + " tokens, the limit is " +
             std::to_string(kMaxTokens),
         ErrorKind::kModelLimit);
  }
  const auto types = metadata.find_i32_array(kTypesKey);
  if (!types) fail(kTypesKey, "is absent");
  check_length(kTypesKey, types->size(), tokens->size());

  Vocab vocab;
  vocab.reserve(tokens->size(), tokens->blob.size());
  const bool is_utf8 = are_utf8(*tokens);  // else each text is looked at, to name the first
  std::string bytes;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const std::string_view text = (*tokens)[i];
    const TokenType type = type_at(*types, i);
    check_text(text, i, type, is_utf8);
    if (type == TokenType::kByte) {
      add_byte_token(vocab, text, i, coding);
      continue;
    }
    const bool may_be_plain = type == TokenType::kNormal || type == TokenType::kUnused;
    const bool plain = may_be_plain && !text.empty() && decode_token_text(coding, text, bytes);
    vocab.add(plain ? std::string_view(bytes) : text, type, plain);
  }
  check_duplicates(vocab, *tokens, coding);
  return vocab;
}

std::optional<std::span<const float>> read_scores(const gguf::Metadata& metadata,
                                                  const Vocab& vocab) {
  const auto scores = metadata.find_f32_array(kScoresKey);
  if (!scores) return scores;
  check_length(kScoresKey, scores->size(), static_cast<size_t>(vocab.size()));
  for (size_t i = 0; i < scores->size(); ++i) {
    if (!std::isfinite((*scores)[i])) {
      fail(kScoresKey, "token " + std::to_string(i) + " has " + number_text((*scores)[i]) +
                           ", wants a finite number");
    }
  }
  return scores;
}

std::array<int32_t, 256> read_byte_ids(const Vocab& vocab) {
  std::array<int32_t, 256> ids;
  ids.fill(Vocab::kNone);
  for (int32_t id = 0; id < vocab.size(); ++id) {
    if (vocab.type(id) != TokenType::kByte) continue;
    const auto byte = static_cast<uint8_t>(vocab.bytes(id)[0]);
    if (ids[byte] != Vocab::kNone) {
      fail(kTokensKey, "tokens " + std::to_string(ids[byte]) + " and " + std::to_string(id) +
                           " are both the byte " + std::to_string(byte));
    }
    ids[byte] = id;
  }
  for (size_t byte = 0; byte < ids.size(); ++byte) {
    if (ids[byte] == Vocab::kNone) {
      fail(kTokensKey, "byte " + std::to_string(byte) + " has no byte token");
    }
  }
  return ids;
}

SpecialIds read_special_ids(const gguf::Metadata& metadata, const Vocab& vocab) {
  // Not used, but a file that names one wrongly is broken. "seperator" is how the format spells it.
  for (const std::string_view name :
       {"seperator", "padding", "cls", "mask", "prefix", "suffix", "middle", "fim_pre", "fim_suf",
        "fim_mid", "fim_pad", "fim_rep", "fim_sep"}) {
    read_id(metadata, "tokenizer.ggml." + std::string(name) + "_token_id", vocab);
  }
  SpecialIds ids;
  ids.bos = read_id(metadata, "tokenizer.ggml.bos_token_id", vocab);
  ids.eos = read_id(metadata, "tokenizer.ggml.eos_token_id", vocab);
  ids.eot = read_id(metadata, "tokenizer.ggml.eot_token_id", vocab);
  ids.eom = read_id(metadata, "tokenizer.ggml.eom_token_id", vocab);
  ids.unknown = read_id(metadata, "tokenizer.ggml.unknown_token_id", vocab);
  return ids;
}

std::string_view read_chat_template(const gguf::Metadata& metadata) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  const std::string_view text = metadata.find_string(kKey).value_or("");
  const size_t bad = find_invalid_utf8(text);
  if (bad != std::string_view::npos) {
    fail(kKey, "is not UTF-8 at byte " + std::to_string(bad));
  }
  if (text.size() > gguf::kMaxTemplateBytes) {
    fail(kKey,
         "has " + std::to_string(text.size()) + " bytes, the limit is " +
             std::to_string(gguf::kMaxTemplateBytes),
         ErrorKind::kModelLimit);
  }
  return text;
}

}  // namespace smallmind
