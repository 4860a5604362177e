// Ids to text as they come, never half a character.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "smallmind/tokenizer.h"

namespace smallmind {

// Bytes in, well-formed UTF-8 out: an incomplete character at the end waits for its rest; what can
// become no character is U+FFFD. A small value; copies go on independently.
class Utf8Assembler {
 public:
  // Appends to `out` what is complete.
  void push(std::string_view bytes, std::string& out);
  // Appends U+FFFD if a character is incomplete; the assembler is then as new.
  void flush(std::string& out);

 private:
  std::array<char, 3> pending_{};
  uint8_t n_pending_ = 0;
};

// The text of a generation, token by token. One thread at a time; a small value: copies go on
// independently. The tokenizer must outlive it. REQUIRES: ids valid.
//
// All pushes and the flush together are Tokenizer::decode of all ids, where the text starts with
// them; a generation goes on after a prompt, so the default keeps the first token's leading space.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true,
                         bool starts_text = false)
      : tokenizer_(&tokenizer), skip_special_(skip_special), starts_text_(starts_text) {}

  std::string push(int32_t id);
  std::string flush();
  // The same into the caller's string, which is appended to.
  void push(int32_t id, std::string& out);
  void flush(std::string& out) { assembler_.flush(out); }

 private:
  const Tokenizer* tokenizer_;
  Utf8Assembler assembler_;
  bool skip_special_;
  bool starts_text_;
};

}  // namespace smallmind
