#include "tokenizer/spm.h"

#include <bit>
#include <string>

#include "base/utf8.h"

namespace smallmind {
namespace {

constexpr std::string_view kMetaspaceMark = "\xE2\x96\x81";  // U+2581

// Orders floats as integers, the highest first. REQUIRES: finite.
uint32_t order_of(float score) noexcept {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 becomes +0
  const uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// U+2581 in a text is a space: the vocabulary cannot tell them apart.
std::string with_spaces(std::string_view text, bool prefix) {
  std::string out = prefix ? " " : "";
  out.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size();) {
    const size_t mark = std::min(text.find(kMetaspaceMark, i), text.size());
    out.append(text.substr(i, mark - i));
    if (mark < text.size()) out.push_back(' ');
    i = mark + kMetaspaceMark.size();
  }
  return out;
}

}  // namespace

SpmEncoder::SpmEncoder(const Vocab& vocab, std::span<const float> scores,
                       const std::array<int32_t, 256>& byte_ids, bool add_space_prefix)
    : vocab_(vocab), byte_ids_(byte_ids), add_space_prefix_(add_space_prefix) {
  orders_.reserve(scores.size());
  for (const float score : scores) orders_.push_back(order_of(score));
  for (int32_t id = 0; id < vocab.size(); ++id) {
    if (!vocab.is_plain(id)) continue;
    const std::string_view bytes = vocab.bytes(id);
    for (size_t i = bytes.find(' ', 1); i != std::string_view::npos; i = bytes.find(' ', i + 1)) {
      joins_space_.set(static_cast<uint8_t>(bytes[i - 1]));
    }
  }
}

Join SpmEncoder::join(std::string_view both) const noexcept {
  if (both.size() > vocab_.max_plain_bytes()) return {};
  const int32_t id = vocab_.find_plain(both);
  if (id == Vocab::kNone) return {};
  return {orders_[static_cast<size_t>(id)], id};
}

size_t SpmEncoder::piece_end(std::string_view text, size_t begin) const noexcept {
  for (size_t i = text.find(' ', begin + 1); i != std::string_view::npos;
       i = text.find(' ', i + 1)) {
    if (!joins_space_.test(static_cast<uint8_t>(text[i - 1]))) return i;
  }
  return text.size();
}

void SpmEncoder::encode_piece(std::string_view piece, Merger& merger, std::vector<Symbol>& symbols,
                              std::vector<int32_t>& ids) const {
  symbols.clear();
  for (size_t at = 0; at < piece.size();) {
    const size_t begin = at;
    next_code_point(piece, at);
    symbols.push_back(
        {static_cast<uint32_t>(begin), vocab_.find_plain(piece.substr(begin, at - begin))});
  }
  symbols.push_back({static_cast<uint32_t>(piece.size()), Vocab::kNone});
  merger.merge(symbols, [&](int32_t, int32_t, uint32_t begin, uint32_t end) {
    return join(piece.substr(begin, end - begin));
  });
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (symbols[i].id != Vocab::kNone) {
      ids.push_back(symbols[i].id);
      continue;
    }
    for (size_t at = symbols[i].begin; at < symbols[i + 1].begin; ++at) {
      ids.push_back(byte_ids_[static_cast<uint8_t>(piece[at])]);
    }
  }
}

void SpmEncoder::encode(std::string_view text, bool after_special, size_t /*offset*/,
                        std::vector<int32_t>& ids) const {
  const bool prefix = add_space_prefix_ && after_special;
  std::string changed;
  if (prefix || text.find(kMetaspaceMark) != std::string_view::npos) {
    changed = with_spaces(text, prefix);
    text = changed;
  }
  Merger merger;
  std::vector<Symbol> symbols;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = piece_end(text, begin);
    encode_piece(text.substr(begin, end - begin), merger, symbols, ids);
    begin = end;
  }
}

}  // namespace smallmind
