#include "tokenizer/bpe.h"

#include <bit>
#include <string>

#include "base/utf8.h"
#include "smallmind/error.h"
#include "tokenizer/text_coding.h"

namespace smallmind {
namespace {

constexpr size_t kMaxProbes = 512;  // as in Vocab: more means computed collisions

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

// Resolves the parts of merge lines to ids; keeps its buffers.
class LineReader {
 public:
  explicit LineReader(const Vocab& vocab) : vocab_(vocab) {}

  struct Parts {
    int32_t left;
    int32_t right;
    int32_t joined;
  };
  Parts read(size_t line, std::string_view text) {
    const size_t space = text.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == text.size()) {
      fail_merge(line, text, "is not two tokens with a space between");
    }

    Parts parts{};
    parts.left = resolve(line, text, text.substr(0, space), "names the token");
    parts.right = resolve(line, text, text.substr(space + 1), "names the token");
    // Vocabularies number their tokens in the order in which the merges make them.
    const int32_t next = last_joined_ + 1;
    parts.joined = next < vocab_.size() && is_join(next, parts)
                       ? next
                       : resolve(line, text, without(text, space), "makes the token");
    last_joined_ = parts.joined;
    return parts;
  }

 private:
  std::string_view without(std::string_view text, size_t space) {
    joined_.assign(text.substr(0, space));
    return joined_.append(text.substr(space + 1));
  }

  bool is_join(int32_t id, const Parts& parts) const {
    const std::string_view left = vocab_.bytes(parts.left);
    return vocab_.is_plain(id) && vocab_.is_plain(parts.left) && vocab_.is_plain(parts.right) &&
           vocab_.bytes(id).size() == left.size() + vocab_.bytes(parts.right).size() &&
           vocab_.bytes(id).starts_with(left) &&
           vocab_.bytes(id).ends_with(vocab_.bytes(parts.right));
  }

  int32_t resolve(size_t line, std::string_view text, std::string_view part, const char* role) {
    int32_t id = Vocab::kNone;
    if (decode_token_text(TextCoding::kByteLevel, part, bytes_)) id = vocab_.find_plain(bytes_);
    if (id == Vocab::kNone) id = vocab_.find_literal(part);
    if (id == Vocab::kNone) {
      fail_merge(line, text,
                 std::string(role) + " '" + escape(part) + "', which is not in the vocabulary");
    }
    if (vocab_.is_control(id)) {
      fail_merge(line, text, std::string(role) + " '" + escape(part) + "', a control token");
    }
    return id;
  }

  const Vocab& vocab_;
  std::string bytes_;
  std::string joined_;
  int32_t last_joined_ = Vocab::kNone;
};

}  // namespace

MergeTable::MergeTable(const Vocab& vocab, const gguf::StringArrayView& lines) {
  slots_.resize(std::bit_ceil(lines.size() + lines.size() / 2 + 2));
  LineReader reader(vocab);
  for (size_t line = 0; line < lines.size(); ++line) {
    const std::string_view text = lines[line];
    const LineReader::Parts parts = reader.read(line, text);
    const Slot slot{parts.left, parts.right, {static_cast<uint32_t>(line), parts.joined}};
    if (!insert(slot, line)) fail_merge(line, text, "stands there twice");
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
