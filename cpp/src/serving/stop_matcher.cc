#include "serving/stop_matcher.h"

namespace smallmind {

StopMatcher::StopMatcher(std::span<const std::string> stops) {
  for (const std::string& stop : stops) add(stop);
  link();
}

// At most as many children as there are stop strings: a list is enough.
uint32_t StopMatcher::child(uint32_t node, unsigned char byte) const {
  uint32_t at = nodes_[node].first_child;
  while (at != 0 && nodes_[at].byte != byte) at = nodes_[at].next_sibling;
  return at;
}

void StopMatcher::add(const std::string& stop) {
  uint32_t at = 0;
  for (const char c : stop) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t next = child(at, byte);
    if (next == 0) {
      next = static_cast<uint32_t>(nodes_.size());
      Node node;
      node.byte = byte;
      node.depth = nodes_[at].depth + 1;
      node.next_sibling = nodes_[at].first_child;
      nodes_.push_back(node);
      nodes_[at].first_child = next;
    }
    at = next;
  }
  nodes_[at].match_bytes = nodes_[at].depth;
}

// Breadth first: a node's failure link is shorter than the node, so it is complete before it.
void StopMatcher::link() {
  std::vector<uint32_t> order{0};
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t parent = order[i];
    for (uint32_t at = nodes_[parent].first_child; at != 0; at = nodes_[at].next_sibling) {
      order.push_back(at);
      Node& node = nodes_[at];
      if (parent != 0) {
        uint32_t suffix = nodes_[parent].fail;
        while (suffix != 0 && child(suffix, node.byte) == 0) suffix = nodes_[suffix].fail;
        node.fail = child(suffix, node.byte);
      }
      if (node.match_bytes == 0) node.match_bytes = nodes_[node.fail].match_bytes;
    }
  }
}

size_t StopMatcher::feed(unsigned char byte) {
  uint32_t next = child(state_, byte);
  while (next == 0 && state_ != 0) {
    state_ = nodes_[state_].fail;
    next = child(state_, byte);
  }
  state_ = next;
  return nodes_[state_].match_bytes;
}

}  // namespace smallmind
