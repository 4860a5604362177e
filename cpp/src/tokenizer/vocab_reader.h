// The tokenizer keys of a GGUF file, checked.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "gguf/metadata.h"
#include "tokenizer/text_coding.h"
#include "tokenizer/vocab.h"

namespace smallmind {

// Every function throws Error(kModelFormat, kModelLimit) naming the key and the value at fault.

// tokens and token_type. Refused: no token, a text that is not UTF-8, over 4 KiB, twice there, or
// empty (a control, unknown or unused token may be), a type outside the enumeration, a byte token
// that is not written <0xHH>.
Vocab read_vocab(const gguf::Metadata& metadata, TextCoding coding);

// scores: one finite number a token. Nothing where the key is absent.
std::optional<std::span<const float>> read_scores(const gguf::Metadata& metadata,
                                                  const Vocab& vocab);

// The byte tokens; all 256 must be there, each once.
std::array<int32_t, 256> read_byte_ids(const Vocab& vocab);

struct SpecialIds {
  int32_t bos = Vocab::kNone;
  int32_t eos = Vocab::kNone;
  int32_t eot = Vocab::kNone;
  int32_t eom = Vocab::kNone;
  int32_t unknown = Vocab::kNone;
};
// Every special id that the file names must be a token.
SpecialIds read_special_ids(const gguf::Metadata& metadata, const Vocab& vocab);

// tokenizer.chat_template; empty where absent. Must be UTF-8.
std::string_view read_chat_template(const gguf::Metadata& metadata);

}  // namespace smallmind
