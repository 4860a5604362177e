#include "tokenizer/text_coding.h"

#include "base/utf8.h"

namespace smallmind {
namespace {

constexpr std::string_view kMetaspaceMark = "\xE2\x96\x81";  // U+2581
constexpr int kFirstShifted = 256;
constexpr int kByteLevelLimit = 0x180;  // all characters of the coding are below

// Bytes that stand for themselves: the printable ones of Latin-1 (without the soft hyphen).
constexpr bool is_self(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteLevelTables {
  std::array<uint16_t, 256> char_of{};
  std::array<int16_t, kByteLevelLimit> byte_of{};
};

// The other bytes take the characters from U+0100 on, in order.
constexpr ByteLevelTables make_tables() {
  ByteLevelTables tables;
  for (auto& byte : tables.byte_of) byte = -1;
  int next = kFirstShifted;
  for (int byte = 0; byte < 256; ++byte) {
    const int code_point = is_self(byte) ? byte : next++;
    tables.char_of[static_cast<size_t>(byte)] = static_cast<uint16_t>(code_point);
    tables.byte_of[static_cast<size_t>(code_point)] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr ByteLevelTables kTables = make_tables();

bool decode_byte_level(std::string_view text, std::string& out) {
  out.resize(text.size());
  size_t n_bytes = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t code_point = static_cast<uint8_t>(text[i]);
    if (code_point >= 0x80) {  // below U+0180 a character has two bytes at most
      if (code_point >= 0xC8 || i + 1 >= text.size()) return false;
      code_point = (code_point & 0x1F) << 6 | (static_cast<uint8_t>(text[++i]) & 0x3F);
    }
    if (code_point >= kByteLevelLimit || kTables.byte_of[code_point] < 0) return false;
    out[n_bytes++] = static_cast<char>(kTables.byte_of[code_point]);
  }
  out.resize(n_bytes);
  return true;
}

// A raw space cannot come from text in this coding, so such a token is not plain.
bool decode_metaspace(std::string_view text, std::string& out) {
  out.resize(text.size());
  char* to = out.data();  // a register of its own: a char may alias `out` itself
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ') return false;
    const bool mark = text[i] == kMetaspaceMark[0] && text.substr(i, 3) == kMetaspaceMark;
    *to++ = mark ? ' ' : text[i];
    if (mark) i += 2;
  }
  out.resize(static_cast<size_t>(to - out.data()));
  return true;
}

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

bool decode_token_text(TextCoding coding, std::string_view text, std::string& out) {
  return coding == TextCoding::kByteLevel ? decode_byte_level(text, out)
                                          : decode_metaspace(text, out);
}

std::string byte_level_char(uint8_t byte) {
  std::string out;
  append_utf8(out, kTables.char_of[byte]);
  return out;
}

int parse_byte_token(std::string_view text) noexcept {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const int high = hex_digit(text[3]);
  const int low = hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace smallmind
