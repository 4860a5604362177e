// Byte-level BPE (tokenizer.ggml.model "gpt2"): pieces of the text, whose bytes merge by rank.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "gguf/metadata.h"
#include "tokenizer/merge.h"
#include "tokenizer/pre_tokenizers.h"
#include "tokenizer/text_encoder.h"
#include "tokenizer/vocab.h"

namespace smallmind {

// (left id, right id) -> rank and the id of both together. Const after construction.
class MergeTable {
 public:
  // The lines are "left right", the first one the best. Throws Error(kModelFormat) naming a line
  // that is not of this form, that names or makes a token which is not in the vocabulary or is a
  // control token, or that stands twice.
  MergeTable(const Vocab& vocab, const gguf::StringArrayView& lines);

  Join find(int32_t left, int32_t right) const noexcept;
  size_t memory_bytes() const noexcept { return slots_.capacity() * sizeof(Slot); }

 private:
  struct Slot {
    int32_t left = Vocab::kNone;
    int32_t right = Vocab::kNone;
    Join join;
  };
  bool insert(const Slot& slot, size_t line);

  std::vector<Slot> slots_;  // open addressing
};

class BpeEncoder : public TextEncoder {
 public:
  // The vocabulary and the row must outlive the encoder. A byte without a token is given
  // `unknown_id`; kNone: a text with such a byte is kInvalidArgument.
  BpeEncoder(const Vocab& vocab, const PreTokenizer& row, const gguf::StringArrayView& merges,
             int32_t unknown_id);

  void encode(std::string_view text, bool after_special, size_t offset,
              std::vector<int32_t>& ids) const override;
  size_t memory_bytes() const noexcept override { return merges_.memory_bytes() + sizeof *this; }

 private:
  int32_t id_of_unknown_byte(uint8_t byte, size_t offset) const;

  const Vocab& vocab_;
  const PreTokenizer& row_;
  const MergeTable merges_;
  const int32_t unknown_id_;
  std::array<int32_t, 256> byte_ids_;
};

}  // namespace smallmind
