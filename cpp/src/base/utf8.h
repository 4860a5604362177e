// UTF-8: validation, decoding, and the escaped form in which foreign bytes enter messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace smallmind {

// The offset of the first byte that is not part of well-formed UTF-8 (overlong forms, surrogates
// and values above U+10FFFF are not), or npos.
size_t find_invalid_utf8(std::string_view bytes) noexcept;

// Printable ASCII stays, the rest becomes \n, \t, \xNN; cut to at most max_chars characters, then
// "..." is added. For messages.
std::string escape(std::string_view bytes, size_t max_chars = 80);

// Well-formed UTF-8 stays, each maximal bad part becomes U+FFFD.
std::string to_valid_utf8(std::string_view bytes);

// Decodes the character at `at` and moves `at` past it. REQUIRES: at < text.size(), text
// well-formed.
char32_t next_code_point(std::string_view text, size_t& at) noexcept;
void append_utf8(std::string& out, char32_t code_point);

}  // namespace smallmind
