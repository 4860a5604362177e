// SentencePiece's merging (tokenizer.ggml.model "llama"): characters merge by score, what is left
// over is written as byte tokens.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/merge.h"
#include "tokenizer/text_encoder.h"
#include "tokenizer/vocab.h"

namespace smallmind {

class SpmEncoder : public TextEncoder {
 public:
  // The vocabulary must outlive the encoder. scores: one finite number a token. byte_ids: the byte
  // tokens. add_space_prefix: a text that begins the whole or follows a special token gets a space.
  SpmEncoder(const Vocab& vocab, std::span<const float> scores,
             const std::array<int32_t, 256>& byte_ids, bool add_space_prefix);

  void encode(std::string_view text, bool after_special, size_t offset,
              std::vector<int32_t>& ids) const override;
  size_t memory_bytes() const noexcept override {
    return orders_.capacity() * sizeof(uint32_t) + sizeof *this;
  }

 private:
  Join join(std::string_view both) const noexcept;
  size_t piece_end(std::string_view text, size_t begin) const noexcept;
  void encode_piece(std::string_view piece, Merger& merger, std::vector<Symbol>& symbols,
                    std::vector<int32_t>& ids) const;

  const Vocab& vocab_;
  const std::array<int32_t, 256> byte_ids_;
  const bool add_space_prefix_;
  std::vector<uint32_t> orders_;  // by id; the higher the score, the lower
  // The bytes that stand before a space inside some token. After any other byte no token crosses
  // into a space, so the text may be cut there: the pieces merge as they would together.
  std::bitset<256> joins_space_;
};

}  // namespace smallmind
