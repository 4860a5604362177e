#include "tokenizer/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "base/utf8.h"
#include "smallmind/error.h"
#include "tokenizer/text_coding.h"

namespace smallmind {
namespace {

constexpr size_t kMaxProbes = 512;  // as in Vocab: more means computed collisions
constexpr size_t kTogether = 32;

[[noreturn]] void fail_merge(size_t line, std::string_view text, const std::string& why) {
  throw Error(ErrorKind::kModelFormat, "key 'tokenizer.ggml.merges': line " + std::to_string(line) +
                                           " '" + escape(text) + "' " + why);
}

size_t hash_pair(int32_t left, int32_t right) noexcept {
  const uint64_t pair =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  const uint64_t product = pair * 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(product ^ (product >> 32));
}

// Resolves merge lines to ids in two steps, so that many lines wait for memory together.
class MergeLine {
 public:
  void prepare(const Vocab& vocab, size_t number, std::string_view text) {
    number_ = number;
    text_ = text;
    space_ = text.find(' ', 1);
    if (space_ == std::string_view::npos || space_ + 1 == text.size()) {
      fail_merge(number, text, "is not two tokens with a space between");
    }
    left_.prepare(vocab, text.substr(0, space_));
    right_.prepare(vocab, text.substr(space_ + 1));
  }

  struct Ids {
    int32_t left;
    int32_t right;
    int32_t joined;
  };
  // expected: what the line makes if the vocabulary numbers its tokens in the order of the merges.
  Ids resolve(const Vocab& vocab, int32_t expected) const {
    Ids ids{};
    ids.left = checked(vocab, left_.find(vocab), left_.text, "names");
    ids.right = checked(vocab, right_.find(vocab), right_.text, "names");
    if (left_.plain && right_.plain && expected < vocab.size() && vocab.is_plain(expected)) {
      const std::string_view bytes = vocab.bytes(expected);
      if (bytes.size() == left_.bytes.size() + right_.bytes.size() &&
          bytes.starts_with(left_.bytes) && bytes.ends_with(right_.bytes)) {
        ids.joined = expected;
        return ids;
      }
    }
    Part joined;
    const std::string text = std::string(left_.text) + std::string(right_.text);
    joined.prepare(vocab, text);
    ids.joined = checked(vocab, joined.find(vocab), text, "makes");
    return ids;
  }

  std::string_view text() const { return text_; }

 private:
  struct Part {
    std::string_view text;
    std::string bytes;
    uint64_t prepared = 0;
    bool plain = false;

    void prepare(const Vocab& vocab, std::string_view part) {
      text = part;
      plain = decode_token_text(TextCoding::kByteLevel, part, bytes);
      if (plain) prepared = vocab.prepare_plain(bytes);
    }
    int32_t find(const Vocab& vocab) const {
      const int32_t id = plain ? vocab.find_plain(bytes, prepared) : Vocab::kNone;
      return id != Vocab::kNone ? id : vocab.find_literal(text);
    }
  };

  int32_t checked(const Vocab& vocab, int32_t id, std::string_view part, const char* verb) const {
    if (id != Vocab::kNone && !vocab.is_control(id)) return id;
    fail_merge(
        number_, text_,
        std::string(verb) + " the token '" + escape(part) +
            (id == Vocab::kNone ? "', which is not in the vocabulary" : "', a control token"));
  }

  size_t number_ = 0;
  std::string_view text_;
  size_t space_ = 0;
  Part left_;
  Part right_;
};

}  // namespace

MergeTable::MergeTable(const Vocab& vocab, const gguf::StringArrayView& lines) {
  slots_.resize(std::bit_ceil(lines.size() + lines.size() / 2 + 2));
  std::array<MergeLine, kTogether> block;
  std::array<Slot, kTogether> slots;
  int32_t last_joined = Vocab::kNone;
  for (size_t begin = 0; begin < lines.size(); begin += kTogether) {
    const size_t n = std::min(kTogether, lines.size() - begin);
    for (size_t i = 0; i < n; ++i) block[i].prepare(vocab, begin + i, lines[begin + i]);
    for (size_t i = 0; i < n; ++i) {
      const MergeLine::Ids ids = block[i].resolve(vocab, last_joined + 1);
      last_joined = ids.joined;
      slots[i] = {ids.left, ids.right, {static_cast<uint32_t>(begin + i), ids.joined}};
      __builtin_prefetch(&slots_[hash_pair(ids.left, ids.right) & (slots_.size() - 1)], 1);
    }
    for (size_t i = 0; i < n; ++i) {
      if (!insert(slots[i], begin + i)) {
        fail_merge(begin + i, block[i].text(), "stands there twice");
      }
    }
  }
}

bool MergeTable::insert(const Slot& slot, size_t line) {
  const size_t mask = slots_.size() - 1;
  size_t n_probes = 0;
  size_t at = hash_pair(slot.left, slot.right) & mask;
  for (; slots_[at].left != Vocab::kNone; at = (at + 1) & mask) {
    if (slots_[at].left == slot.left && slots_[at].right == slot.right) return false;
    if (++n_probes > kMaxProbes) {
      throw Error(ErrorKind::kModelLimit,
                  "key 'tokenizer.ggml.merges': too many lines collide, the last is line " +
                      std::to_string(line));
    }
  }
  slots_[at] = slot;
  return true;
}

Join MergeTable::find(int32_t left, int32_t right) const noexcept {
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash_pair(left, right) & mask;; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.left == left && slot.right == right) return slot.join;
    if (slot.left == Vocab::kNone) return {};
  }
}

BpeEncoder::BpeEncoder(const Vocab& vocab, const PreTokenizer& row,
                       const gguf::StringArrayView& merges, int32_t unknown_id)
    : vocab_(vocab), row_(row), merges_(vocab, merges), unknown_id_(unknown_id) {
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const char text = static_cast<char>(byte);
    byte_ids_[byte] = vocab.find_plain({&text, 1});
  }
}

int32_t BpeEncoder::id_of_unknown_byte(uint8_t byte, size_t offset) const {
  if (unknown_id_ != Vocab::kNone) return unknown_id_;
  const char text = static_cast<char>(byte);
  throw Error(ErrorKind::kInvalidArgument, "text: the vocabulary has no token for byte " +
                                               std::to_string(byte) + " ('" + escape({&text, 1}) +
                                               "') at offset " + std::to_string(offset));
}

void BpeEncoder::encode(std::string_view text, bool /*after_special*/, size_t offset,
                        std::vector<int32_t>& ids) const {
  Merger merger;
  std::vector<Symbol> symbols;
  // A byte without a token (kNone) joins with nothing: no slot but a free one has that id.
  const auto join = [this](int32_t left, int32_t right, uint32_t, uint32_t) {
    return left == Vocab::kNone || right == Vocab::kNone ? Join{} : merges_.find(left, right);
  };
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = piece_end(row_, text, begin);
    const std::string_view piece = text.substr(begin, end - begin);
    const int32_t whole = row_.whole_token_first ? vocab_.find_plain(piece) : Vocab::kNone;
    if (whole != Vocab::kNone) {
      ids.push_back(whole);
    } else {
      symbols.resize(piece.size() + 1);
      for (size_t i = 0; i < piece.size(); ++i) {
        symbols[i] = {static_cast<uint32_t>(i), byte_ids_[static_cast<uint8_t>(piece[i])]};
      }
      symbols.back() = {static_cast<uint32_t>(piece.size()), Vocab::kNone};
      merger.merge(symbols, join);
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const Symbol& symbol = symbols[i];
        ids.push_back(symbol.id != Vocab::kNone
                          ? symbol.id
                          : id_of_unknown_byte(static_cast<uint8_t>(piece[symbol.begin]),
                                               offset + begin + symbol.begin));
      }
    }
    begin = end;
  }
}

}  // namespace smallmind
