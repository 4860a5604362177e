// How a text is cut into pieces before byte-level merging: THE TABLE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace smallmind {

// The patterns come in two shapes; a row fills in what differs. Alternatives stand in the order in
// which they are tried.
enum class PieceShape : uint8_t {
  // contraction | ' '? letters | ' '? numbers | ' '? others | spaces
  kSpaceFirst,
  // contraction | (no newline, letter or number)? letters | numbers | ' '? others newlines |
  // spaces up to the last newline | spaces
  kAnyFirst,
};

// A row of the table: the name in tokenizer.ggml.pre and what it means. To add a pre-tokenizer of
// one of the two shapes, add a row.
struct PreTokenizer {
  std::string_view name;
  PieceShape shape;
  bool contractions_fold_case;  // 'S as well as 's
  uint8_t max_numbers;          // in a piece; 0: no limit
  bool numbers_cut_first;       // each number is a piece before anything else is looked at
  bool whole_token_first;       // a piece that is a token is that token, whatever merging gives
  bool adds_bos;                // where the file does not say
};

std::span<const PreTokenizer> pre_tokenizers() noexcept;
// Null for a name that is not in the table.
const PreTokenizer* find_pre_tokenizer(std::string_view name) noexcept;

// The end of the piece that begins at `begin`; linear in its length. REQUIRES: text well-formed
// UTF-8, begin < text.size() at a character.
size_t piece_end(const PreTokenizer& row, std::string_view text, size_t begin) noexcept;

}  // namespace smallmind
