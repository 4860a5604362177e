// Small vocabularies as GGUF bytes, read back by the real reader.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../gguf/gguf_bytes.h"
#include "smallmind/tokenizer.h"

namespace smallmind {

struct VocabToken {
  std::string text;
  int32_t type = 1;
  float score = 0;
};

// What a file says; every part can be left out or made wrong before tokenizer() reads it.
struct VocabFile {
  std::string model = "gpt2";
  std::string pre = "gpt-2";  // empty: the key is absent
  std::vector<VocabToken> tokens;
  std::vector<std::string> merges;
  std::vector<std::string> entries;  // further entries of the file
  bool has_scores = false;
  bool has_merges = true;
  bool has_types = true;
  int n_scores_more = 0;  // entries more or fewer than tokens
  int n_types_more = 0;

  int32_t add(std::string text, int32_t type = 1, float score = 0);
  int32_t id_of(std::string_view text) const;  // -1: none
  std::string bytes() const;
  std::shared_ptr<const Tokenizer> tokenizer() const;
};

// The 256 characters of byte-level BPE.
VocabFile byte_level_file();
// <unk>, <s>, </s> and the 256 byte tokens; with BOS and EOS ids, and a space prefix by default.
VocabFile metaspace_file();

}  // namespace smallmind
