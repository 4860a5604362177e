// Finds the first of several strings in a text that comes byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace smallmind {

// An Aho-Corasick automaton: time linear in text and strings, whatever they are. One thread at a
// time.
class StopMatcher {
 public:
  explicit StopMatcher(std::span<const std::string> stops);

  // The length of the longest stop string that ends with this byte, or 0.
  size_t feed(unsigned char byte);
  // How many bytes at the end of the text so far may be the beginning of a stop string.
  size_t held_bytes() const { return nodes_[state_].depth; }

 private:
  struct Node {
    uint32_t first_child = 0;  // 0: none, the root is nobody's child
    uint32_t next_sibling = 0;
    uint32_t fail = 0;  // the longest proper suffix of this prefix that is a prefix too
    uint32_t depth = 0;
    uint32_t match_bytes = 0;  // the longest stop string that is a suffix of this prefix
    unsigned char byte = 0;
  };
  uint32_t child(uint32_t node, unsigned char byte) const;
  void add(const std::string& stop);
  void link();

  std::vector<Node> nodes_{Node{}};
  uint32_t state_ = 0;
};

}  // namespace smallmind
