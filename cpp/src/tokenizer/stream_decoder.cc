#include "tokenizer/stream_decoder.h"

#include <algorithm>

#include "base/utf8.h"

namespace smallmind {
namespace {

uint8_t byte_at(std::string_view bytes, size_t i) { return static_cast<uint8_t>(bytes[i]); }

// The length of the character that a byte begins; 1 for a byte that begins none.
size_t length_from_lead(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 1;
}

// Whether the second byte rules the character out: overlong, a surrogate, above U+10FFFF.
bool second_is_bad(uint8_t lead, uint8_t second) {
  return (lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
         (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F);
}

// How many bytes at the end may still become a character: 0 to 3.
size_t incomplete_tail(std::string_view bytes) {
  for (size_t n = 1; n <= std::min<size_t>(3, bytes.size()); ++n) {
    const uint8_t lead = byte_at(bytes, bytes.size() - n);
    if ((lead & 0xC0) == 0x80) continue;
    if (length_from_lead(lead) <= n) return 0;
    return n >= 2 && second_is_bad(lead, byte_at(bytes, bytes.size() - n + 1)) ? 0 : n;
  }
  return 0;
}

}  // namespace

void Utf8Assembler::push(std::string_view bytes, std::string& out) {
  std::string joined;
  if (n_pending_ > 0) {
    joined.assign(pending_.data(), n_pending_);
    joined.append(bytes);
    bytes = joined;
  }
  const size_t n_tail = incomplete_tail(bytes);
  const std::string_view complete = bytes.substr(0, bytes.size() - n_tail);
  if (find_invalid_utf8(complete) == std::string_view::npos) {
    out.append(complete);
  } else {
    out.append(to_valid_utf8(complete));
  }
  std::copy(bytes.end() - static_cast<std::ptrdiff_t>(n_tail), bytes.end(), pending_.begin());
  n_pending_ = static_cast<uint8_t>(n_tail);
}

void Utf8Assembler::flush(std::string& out) {
  if (n_pending_ > 0) append_utf8(out, 0xFFFD);
  n_pending_ = 0;
}

void StreamDecoder::push(int32_t id, std::string& out) {
  if (skip_special_ && tokenizer_->is_control(id)) return;
  std::string_view bytes = tokenizer_->token_view(id);
  if (starts_text_ && tokenizer_->leading_space_is_added(id)) bytes.remove_prefix(1);
  starts_text_ = false;
  assembler_.push(bytes, out);
}

std::string StreamDecoder::push(int32_t id) {
  std::string out;
  push(id, out);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out;
  flush(out);
  return out;
}

}  // namespace smallmind
