// The character classes that pre-tokenizers ask for.
#pragma once

#include <cstdint>

namespace smallmind {

enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace };

// Two stages, made by tests/support/make_unicode_tables.py: the block of every 256 code points, and
// the distinct blocks with four 2-bit classes a byte.
extern const uint8_t kUnicodeBlockOf[];
extern const uint8_t kUnicodeBlocks[];

// REQUIRES: code_point <= U+10FFFF.
inline CharClass char_class(char32_t code_point) noexcept {
  const uint32_t block = kUnicodeBlockOf[code_point >> 8];
  const uint32_t packed = kUnicodeBlocks[block * 64 + ((code_point & 255) >> 2)];
  return static_cast<CharClass>((packed >> (2 * (code_point & 3))) & 3);
}

}  // namespace smallmind
