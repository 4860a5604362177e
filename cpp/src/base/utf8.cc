#include "base/utf8.h"

#include <bit>
#include <cstring>

namespace smallmind {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

struct Decoded {
  char32_t code_point;
  size_t length;  // bytes taken; for a bad sequence, those of its maximal part
  bool valid;
};

uint8_t byte_at(std::string_view bytes, size_t i) { return static_cast<uint8_t>(bytes[i]); }

struct LeadByte {
  size_t n_continuations;
  uint8_t second_min;  // narrower than 80..BF where a longer form would be overlong, a surrogate
  uint8_t second_max;  // or above U+10FFFF
};

// The rows of the Unicode standard's table of well-formed sequences; none for a byte that cannot
// start one.
bool find_lead_byte(uint8_t lead, LeadByte& row) {
  if (lead >= 0xC2 && lead <= 0xDF) {
    row = {1, 0x80, 0xBF};
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    row = {2, lead == 0xE0 ? uint8_t{0xA0} : uint8_t{0x80},
           lead == 0xED ? uint8_t{0x9F} : uint8_t{0xBF}};
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    row = {3, lead == 0xF0 ? uint8_t{0x90} : uint8_t{0x80},
           lead == 0xF4 ? uint8_t{0x8F} : uint8_t{0xBF}};
  } else {
    return false;
  }
  return true;
}

// REQUIRES: at < bytes.size().
Decoded decode(std::string_view bytes, size_t at) noexcept {
  const uint8_t lead = byte_at(bytes, at);
  if (lead < 0x80) return {lead, 1, true};
  LeadByte row{};
  if (!find_lead_byte(lead, row)) return {kReplacement, 1, false};
  char32_t code_point = lead & (0x3Fu >> row.n_continuations);
  for (size_t i = 1; i <= row.n_continuations; ++i) {
    if (at + i >= bytes.size()) return {kReplacement, i, false};
    const uint8_t next = byte_at(bytes, at + i);
    const uint8_t low = i == 1 ? row.second_min : uint8_t{0x80};
    const uint8_t high = i == 1 ? row.second_max : uint8_t{0xBF};
    if (next < low || next > high) return {kReplacement, i, false};
    code_point = (code_point << 6) | (next & 0x3Fu);
  }
  return {code_point, row.n_continuations + 1, true};
}

// How many of eight bytes stand before the first that is not ASCII.
size_t n_ascii_of_eight(const char* at) noexcept {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return static_cast<size_t>(std::countr_zero(word & 0x8080808080808080u)) / 8;
}

}  // namespace

size_t find_invalid_utf8(std::string_view bytes) noexcept {
  size_t at = 0;
  while (at < bytes.size()) {
    if (bytes.size() - at >= 8) {
      const size_t n = n_ascii_of_eight(bytes.data() + at);
      at += n;
      if (n == 8) continue;
    }
    const Decoded decoded = decode(bytes, at);
    if (!decoded.valid) return at;
    at += decoded.length;
  }
  return std::string_view::npos;
}

std::string escape(std::string_view bytes, size_t max_chars) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    std::string piece;
    if (byte >= 0x20 && byte < 0x7F) {
      piece = c;
    } else if (c == '\n') {
      piece = "\\n";
    } else if (c == '\t') {
      piece = "\\t";
    } else {
      piece = {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
    if (out.size() + piece.size() > max_chars) return out + "...";
    out += piece;
  }
  return out;
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t bad = find_invalid_utf8(bytes.substr(at));
    if (bad == std::string_view::npos) {
      out += bytes.substr(at);
      break;
    }
    out += bytes.substr(at, bad);
    at += bad;
    append_utf8(out, kReplacement);
    at += decode(bytes, at).length;
  }
  return out;
}

char32_t next_code_point(std::string_view text, size_t& at) noexcept {
  const Decoded decoded = decode(text, at);
  at += decoded.length;
  return decoded.code_point;
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto continuation = [&](unsigned shift) {
    out += static_cast<char>(0x80u | ((code_point >> shift) & 0x3Fu));
  };
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0u | (code_point >> 6));
    continuation(0);
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0u | (code_point >> 12));
    continuation(6);
    continuation(0);
  } else {
    out += static_cast<char>(0xF0u | (code_point >> 18));
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

}  // namespace smallmind
