// The token table: every token's bytes in one blob, and the ids by their bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace smallmind {

// The values of tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// A token is plain or literal. A plain one is made from text by merging, and its bytes here are
// those of the text that it stands for (the file writes them in the coding of its family). A
// literal one (control, unknown, user-defined, byte, or a text that is not in that coding) never
// comes out of merging.
//
// Filled by add(), made searchable by index(); const and free for any thread from then on.
class Vocab {
 public:
  static constexpr int32_t kNone = -1;

  // The two tokens that index() found to be the same, or kNone twice.
  struct Duplicate {
    int32_t first = kNone;
    int32_t second = kNone;
  };

  // Room for what add() will bring, at most. REQUIRES: fewer than 2^24 tokens, less than 4 GiB.
  void reserve(size_t n_tokens, size_t n_bytes);
  void add(std::string_view bytes, TokenType type, bool plain);
  // Throws Error(kModelLimit) for tokens that were made to collide. Literal tokens without bytes
  // and byte tokens are not indexed.
  Duplicate index();

  int32_t size() const noexcept { return static_cast<int32_t>(kinds_.size()); }
  std::string_view bytes(int32_t id) const noexcept {
    const auto at = static_cast<size_t>(id);
    return {blob_.data() + offsets_[at], offsets_[at + 1] - offsets_[at]};
  }
  TokenType type(int32_t id) const noexcept {
    return static_cast<TokenType>(kinds_[static_cast<size_t>(id)] & kTypeMask);
  }
  bool is_plain(int32_t id) const noexcept {
    return (kinds_[static_cast<size_t>(id)] & kPlainBit) != 0;
  }
  // Control and unknown tokens: no part of a text.
  bool is_control(int32_t id) const noexcept {
    return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown;
  }

  int32_t find_plain(std::string_view bytes) const noexcept {
    return find(bytes, true, hash(bytes, true));
  }
  int32_t find_literal(std::string_view bytes) const noexcept {
    return find(bytes, false, hash(bytes, false));
  }
  // find_plain in two steps, for many at once: the first fetches the memory that the second reads.
  uint64_t prepare_plain(std::string_view bytes) const noexcept {
    const uint64_t h = hash(bytes, true);
    __builtin_prefetch(&slots_[h & (slots_.size() - 1)]);
    return h;
  }
  int32_t find_plain(std::string_view bytes, uint64_t prepared) const noexcept {
    return find(bytes, true, prepared);
  }
  size_t max_plain_bytes() const noexcept { return max_plain_bytes_; }
  size_t memory_bytes() const noexcept;

 private:
  static constexpr uint8_t kPlainBit = 0x80;
  static constexpr uint8_t kTypeMask = 0x7F;

  uint64_t hash(std::string_view bytes, bool plain) const noexcept;
  int32_t find(std::string_view bytes, bool plain, uint64_t h) const noexcept;
  bool try_index(Duplicate& duplicate);

  std::vector<char> blob_;
  std::vector<uint32_t> offsets_ = {0};
  std::vector<uint8_t> kinds_;
  // Open addressing; a slot is 0 (free) or 8 bits of the hash above id + 1.
  std::vector<uint32_t> slots_;
  uint64_t seed_ = 0;
  size_t max_plain_bytes_ = 0;
};

}  // namespace smallmind
