#include "tokenizer/pre_tokenizers.h"

#include <array>
#include <limits>

#include "base/utf8.h"
#include "tokenizer/unicode_tables.h"

namespace smallmind {
namespace {

constexpr std::array kTable = {
    PreTokenizer{"gpt-2", PieceShape::kSpaceFirst, false, 0, false, false, false},
    PreTokenizer{"smollm", PieceShape::kSpaceFirst, false, 0, true, false, false},
    PreTokenizer{"llama-bpe", PieceShape::kAnyFirst, true, 3, false, true, true},
    PreTokenizer{"qwen2", PieceShape::kAnyFirst, true, 1, false, false, false},
};

constexpr std::string_view kLongS = "\xC5\xBF";  // U+017F, which is an s when case is folded

// A character of the text and where it ends; the class is kOther and end == begin at the text's
// end, so that `end > begin` tells whether there is one.
struct Character {
  size_t end;
  CharClass kind;
  char first;
};

Character character_at(std::string_view text, size_t begin) noexcept {
  if (begin >= text.size()) return {begin, CharClass::kOther, '\0'};
  size_t end = begin;
  const char32_t code_point = next_code_point(text, end);
  return {end, char_class(code_point), text[begin]};
}

bool is_newline(char c) noexcept { return c == '\n' || c == '\r'; }

// The end of the run of `kind` from `begin` on, of at most `limit` characters.
size_t run_end(std::string_view text, size_t begin, CharClass kind,
               size_t limit = std::numeric_limits<size_t>::max()) noexcept {
  size_t end = begin;
  for (; limit > 0; --limit) {
    const Character next = character_at(text, end);
    if (next.end == end || next.kind != kind) break;
    end = next.end;
  }
  return end;
}

char folded(char c, bool fold_case) noexcept {
  return fold_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// The end of 's 't 're 've 'm 'll 'd; `begin` where there is none. REQUIRES: text[begin] is '.
size_t contraction_end(std::string_view text, size_t begin, bool fold_case) noexcept {
  const std::string_view rest = text.substr(begin + 1, 2);
  if (rest.empty()) return begin;
  const char first = folded(rest[0], fold_case);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
  if (rest.size() < 2) return begin;
  if (fold_case && rest == kLongS) return begin + 3;
  const char second = folded(rest[1], fold_case);
  const bool two =
      ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l');
  return two ? begin + 3 : begin;
}

size_t last_character_begin(std::string_view text, size_t end) noexcept {
  do {
    --end;
  } while ((static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

// White space [begin, end): all of it where nothing follows, else all but its last character, which
// may belong to what follows. A single character is a piece.
size_t space_piece_end(std::string_view text, size_t begin, size_t end,
                       bool nothing_follows) noexcept {
  if (nothing_follows) return end;
  const size_t last = last_character_begin(text, end);
  return last == begin ? end : last;
}

size_t space_first_end(const PreTokenizer& row, std::string_view text, size_t begin) noexcept {
  const Character first = character_at(text, begin);
  if (row.numbers_cut_first && first.kind == CharClass::kNumber) return first.end;
  if (first.first == '\'') {
    const size_t end = contraction_end(text, begin, row.contractions_fold_case);
    if (end != begin) return end;
  }
  Character head = first;
  size_t head_begin = begin;
  if (first.first == ' ') {
    head = character_at(text, first.end);
    head_begin = first.end;
  }
  const bool ends_here = row.numbers_cut_first && head.kind == CharClass::kNumber;
  if (head.end > head_begin && head.kind != CharClass::kSpace && !ends_here) {
    return run_end(text, head.end, head.kind);
  }
  const size_t end = run_end(text, begin, CharClass::kSpace);
  const bool nothing_follows =
      end == text.size() ||
      (row.numbers_cut_first && character_at(text, end).kind == CharClass::kNumber);
  return space_piece_end(text, begin, end, nothing_follows);
}

// White space of kAnyFirst: up to its last newline if it has one.
size_t space_or_newlines_end(std::string_view text, size_t begin) noexcept {
  const size_t end = run_end(text, begin, CharClass::kSpace);
  for (size_t i = end; i > begin; --i) {
    if (is_newline(text[i - 1])) return i;
  }
  return space_piece_end(text, begin, end, end == text.size());
}

size_t others_end(std::string_view text, size_t begin) noexcept {
  size_t end = run_end(text, begin, CharClass::kOther);
  while (end < text.size() && is_newline(text[end])) ++end;
  return end;
}

size_t any_first_end(const PreTokenizer& row, std::string_view text, size_t begin) noexcept {
  const Character first = character_at(text, begin);
  if (first.first == '\'') {
    const size_t end = contraction_end(text, begin, row.contractions_fold_case);
    if (end != begin) return end;
  }
  if (first.kind == CharClass::kLetter) return run_end(text, first.end, CharClass::kLetter);
  if (first.kind == CharClass::kNumber) {
    return row.max_numbers == 0 ? run_end(text, begin, CharClass::kNumber)
                                : run_end(text, begin, CharClass::kNumber, row.max_numbers);
  }
  const Character second = character_at(text, first.end);
  const bool has_second = second.end > first.end;
  if (has_second && second.kind == CharClass::kLetter && !is_newline(first.first)) {
    return run_end(text, second.end, CharClass::kLetter);
  }
  if (first.kind == CharClass::kOther) return others_end(text, begin);
  if (first.first == ' ' && has_second && second.kind == CharClass::kOther) {
    return others_end(text, first.end);
  }
  return space_or_newlines_end(text, begin);
}

}  // namespace

std::span<const PreTokenizer> pre_tokenizers() noexcept { return kTable; }

const PreTokenizer* find_pre_tokenizer(std::string_view name) noexcept {
  for (const PreTokenizer& row : kTable) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

size_t piece_end(const PreTokenizer& row, std::string_view text, size_t begin) noexcept {
  switch (row.shape) {
    case PieceShape::kSpaceFirst:
      return space_first_end(row, text, begin);
    case PieceShape::kAnyFirst:
      return any_first_end(row, text, begin);
  }
  return text.size();
}

}  // namespace smallmind
