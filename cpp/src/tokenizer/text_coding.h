// How the two families write a token's bytes in the file.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace smallmind {

enum class TextCoding : uint8_t {
  kByteLevel,  // gpt2: every byte is one printable character (a space is U+0120)
  kMetaspace,  // llama: UTF-8, a space is U+2581
};

// The bytes that a token's text in the file stands for, in `out`. False where the text is not in
// this coding; `out` is then of no use.
bool decode_token_text(TextCoding coding, std::string_view text, std::string& out);

// The characters of kByteLevel for a byte, as UTF-8; for messages and tests.
std::string byte_level_char(uint8_t byte);

// "<0x41>" gives 0x41; -1 for anything else (exactly two upper-case hexadecimal digits).
int parse_byte_token(std::string_view text) noexcept;

}  // namespace smallmind
