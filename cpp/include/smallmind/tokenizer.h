// Text to token ids and back, from a GGUF file's own vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smallmind/cancellation.h"

namespace smallmind {

namespace gguf {
class Metadata;
}

// Immutable after construction: any thread, any time, no locks.
class Tokenizer {
 public:
  // Reads metadata only; a file without weights is enough. Throws ModelFormat, UnsupportedModel,
  // ModelIo, ...
  static std::shared_ptr<const Tokenizer> from_gguf(const std::string& path,
                                                    const CallHooks& hooks = {});
  static std::shared_ptr<const Tokenizer> from_metadata(const gguf::Metadata& metadata);
  virtual ~Tokenizer() = default;

  // add_special: the model's BOS (and EOS where the file says so) around the text. parse_special:
  // the text of a control token becomes that token, except where the token's text would span one of
  // `literal_marks` (byte offsets strictly inside it, ascending): so chat templates are parsed and
  // user content is not. Invalid UTF-8 throws kInvalidArgument with the byte offset. Time is
  // linear-logarithmic in the text.
  virtual std::vector<int32_t> encode(std::string_view utf8, bool add_special, bool parse_special,
                                      std::span<const size_t> literal_marks = {}) const = 0;
  // The ids' text as valid UTF-8 (bad sequences become U+FFFD). skip_special leaves control tokens
  // out; else their text is written. Throws kInvalidArgument naming the index and value of an id
  // out of range.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special) const = 0;
  // The raw bytes a token stands for in a text (a byte token: that byte; a control token: its
  // text). REQUIRES: id valid.
  std::string token_bytes(int32_t id) const { return std::string(token_view(id)); }
  // The same without a copy; lives as long as the tokenizer.
  virtual std::string_view token_view(int32_t id) const = 0;
  // True where encoding put the space before this token's text: a text that begins with the token
  // is decoded without it. REQUIRES: id valid.
  virtual bool leading_space_is_added(int32_t id) const = 0;

  virtual int32_t n_vocab() const = 0;
  virtual int32_t bos_id() const = 0;  // -1: none
  virtual int32_t eos_id() const = 0;  // -1: none
  virtual bool add_bos() const = 0;
  virtual bool is_control(int32_t id) const = 0;
  // True for every token that ends a generation: EOS, EOT and the end-of-turn tokens known by their
  // texts.
  virtual bool is_end_of_generation(int32_t id) const = 0;
  virtual std::vector<int32_t> end_ids() const = 0;  // all of them, ascending
  // The texts of all control tokens, by id: what a chat must not let user content spell.
  virtual std::vector<std::string> control_texts() const = 0;
  virtual const std::string& chat_template() const = 0;  // empty: none
  virtual size_t memory_bytes() const = 0;
};

}  // namespace smallmind
