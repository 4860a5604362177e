#include "tokenizer/special_tokens.h"

#include <algorithm>
#include <string>

#include "smallmind/error.h"

namespace smallmind {
namespace {

// 24 MiB of nodes; Gemma's 6,414 special tokens need 60,000.
constexpr size_t kMaxNodes = 1 << 20;

// The ids of all tokens to look for, ordered by their texts read backwards.
std::vector<int32_t> special_ids(const Vocab& vocab) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const bool wanted = vocab.is_control(id) || vocab.type(id) == TokenType::kUserDefined;
    if (wanted && !vocab.bytes(id).empty()) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const std::string_view left = vocab.bytes(a);
    const std::string_view right = vocab.bytes(b);
    return std::lexicographical_compare(
        left.rbegin(), left.rend(), right.rbegin(), right.rend(),
        [](char x, char y) { return static_cast<uint8_t>(x) < static_cast<uint8_t>(y); });
  });
  return ids;
}

}  // namespace

SpecialTokens::SpecialTokens(const Vocab& vocab) : vocab_(vocab) {
  build_trie(special_ids(vocab));
  link();
}

// Every node stands for the ids of one range, those whose texts end in the node's string.
void SpecialTokens::build_trie(std::span<const int32_t> ids) {
  struct Range {
    uint32_t begin;
    uint32_t end;
    uint32_t depth;
  };
  size_t n_bytes = 0;
  for (const int32_t id : ids) n_bytes += vocab_.bytes(id).size();
  const size_t n_at_most = std::min(n_bytes + 1, kMaxNodes);
  nodes_.reserve(n_at_most);
  std::vector<Range> ranges;
  ranges.reserve(n_at_most);
  ranges.push_back({0, static_cast<uint32_t>(ids.size()), 0});
  nodes_.push_back({});
  const auto byte_of = [&](size_t index, size_t depth) {
    const std::string_view text = vocab_.bytes(ids[index]);
    return static_cast<uint8_t>(text[text.size() - 1 - depth]);
  };
  for (size_t at = 0; at < nodes_.size(); ++at) {
    const Range range = ranges[at];
    uint32_t begin = range.begin;
    if (begin < range.end && vocab_.bytes(ids[begin]).size() == range.depth) {
      nodes_[at].id = ids[begin++];
    }
    nodes_[at].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < range.end) {
      const uint8_t byte = byte_of(begin, range.depth);
      uint32_t end = begin + 1;
      while (end < range.end && byte_of(end, range.depth) == byte) ++end;
      if (nodes_.size() >= kMaxNodes) {
        throw Error(ErrorKind::kModelLimit, "key 'tokenizer.ggml.tokens': the texts of the " +
                                                std::to_string(ids.size()) +
                                                " special tokens are too many");
      }
      nodes_.push_back({});
      nodes_.back().byte = byte;
      ranges.push_back({begin, end, range.depth + 1});
      ++nodes_[at].n_children;
      begin = end;
    }
  }
}

void SpecialTokens::link() {
  for (uint32_t i = 0; i < nodes_[0].n_children; ++i) {
    const uint32_t node = nodes_[0].first_child + i;
    root_children_[nodes_[node].byte] = node;
  }
  for (uint32_t parent = 0; parent < nodes_.size(); ++parent) {
    for (uint32_t i = 0; i < nodes_[parent].n_children; ++i) {
      const uint32_t node = nodes_[parent].first_child + i;
      const uint32_t fail = parent == 0 ? 0 : step(nodes_[parent].fail, nodes_[node].byte);
      nodes_[node].fail = fail;
      nodes_[node].next_output = nodes_[fail].id != Vocab::kNone ? fail : nodes_[fail].next_output;
    }
  }
}

uint32_t SpecialTokens::child(uint32_t node, uint8_t byte) const noexcept {
  if (node == 0) return root_children_[byte];
  const auto begin = nodes_.begin() + nodes_[node].first_child;
  const auto end = begin + nodes_[node].n_children;
  const auto at = std::lower_bound(begin, end, byte,
                                   [](const Node& n, uint8_t wanted) { return n.byte < wanted; });
  return at != end && at->byte == byte ? static_cast<uint32_t>(at - nodes_.begin()) : 0;
}

uint32_t SpecialTokens::step(uint32_t node, uint8_t byte) const noexcept {
  for (;;) {
    const uint32_t next = child(node, byte);
    if (next != 0 || node == 0) return next;
    node = nodes_[node].fail;
  }
}

std::vector<SpecialMatch> SpecialTokens::find(std::string_view text, bool parse_control,
                                              std::span<const size_t> marks) const {
  if (nodes_.size() == 1) return {};
  struct Found {
    uint32_t begin;  // texts have less than 4 GiB
    int32_t id;
    size_t end(const Vocab& vocab) const { return begin + vocab.bytes(id).size(); }
  };
  std::vector<Found> found;  // from the text's end to its beginning, overlaps included
  const auto allowed = [&](const Found& match) {
    if (!vocab_.is_control(match.id)) return true;
    if (!parse_control) return false;
    const auto mark = std::upper_bound(marks.begin(), marks.end(), match.begin);
    return mark == marks.end() || *mark >= match.end(vocab_);
  };
  uint32_t state = 0;
  for (size_t at = text.size(); at-- > 0;) {
    state = step(state, static_cast<uint8_t>(text[at]));
    uint32_t node = nodes_[state].id != Vocab::kNone ? state : nodes_[state].next_output;
    for (; node != 0; node = nodes_[node].next_output) {
      const Found match{static_cast<uint32_t>(at), nodes_[node].id};
      if (allowed(match)) {
        found.push_back(match);
        break;
      }
    }
  }
  std::vector<SpecialMatch> matches;
  size_t end = 0;
  for (size_t i = found.size(); i-- > 0;) {
    if (found[i].begin < end) continue;
    end = found[i].end(vocab_);
    matches.push_back({found[i].begin, end, found[i].id});
  }
  return matches;
}

}  // namespace smallmind
