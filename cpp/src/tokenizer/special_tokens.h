// Finds the texts of special tokens inside a text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/vocab.h"

namespace smallmind {

struct SpecialMatch {
  size_t begin = 0;
  size_t end = 0;
  int32_t id = Vocab::kNone;
};

// Const after construction: any thread, any time.
//
// An automaton over the texts written backwards, run from the text's end to its beginning: after a
// character its state tells every special token that begins there, the longest first. So one pass
// finds the leftmost-longest matches in linear time, whatever is allowed.
class SpecialTokens {
 public:
  // The vocabulary must outlive this. Throws Error(kModelLimit) where the texts are too many.
  explicit SpecialTokens(const Vocab& vocab);

  // Matches that do not overlap, in order; at each place the longest that is allowed. User-defined
  // tokens always are; control and unknown ones with parse_control, and where no mark (ascending
  // offsets) lies strictly inside. REQUIRES: text less than 4 GiB.
  std::vector<SpecialMatch> find(std::string_view text, bool parse_control,
                                 std::span<const size_t> marks) const;
  size_t memory_bytes() const noexcept { return nodes_.size() * sizeof(Node) + sizeof *this; }

 private:
  struct Node {
    uint32_t first_child = 0;
    uint32_t fail = 0;
    uint32_t next_output = 0;  // the nearest node on the way of fail links with a token; 0: none
    int32_t id = Vocab::kNone;
    uint16_t n_children = 0;
    uint8_t byte = 0;
  };
  void build_trie(std::span<const int32_t> ids);
  void link();
  uint32_t child(uint32_t node, uint8_t byte) const noexcept;
  uint32_t step(uint32_t node, uint8_t byte) const noexcept;

  const Vocab& vocab_;
  std::vector<Node> nodes_;  // breadth first; the root is 0
  std::array<uint32_t, 256> root_children_{};
};

}  // namespace smallmind
