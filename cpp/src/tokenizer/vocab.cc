#include "tokenizer/vocab.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
constexpr uint32_t kIdMask = 0x00FFFFFF;
// Honest tables at half load stay far below; more means that the file's author computed collisions.
constexpr size_t kMaxProbes = 512;
constexpr int kMaxSeeds = 4;
constexpr size_t kAhead = 16;

template <class T>
T load(const char* at) noexcept {
  T word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// Fewer than 8 bytes as a number, different for different bytes: from the front and from the back,
// which may overlap. (A copy of so many bytes would be a call.)
uint64_t load_tail(const char* at, size_t n) noexcept {
  if (n >= 4) return load<uint32_t>(at) | uint64_t{load<uint32_t>(at + n - 4)} << 32;
  if (n >= 2) return load<uint16_t>(at) | uint64_t{load<uint16_t>(at + n - 2)} << 32;
  return n == 1 ? load<uint8_t>(at) : 0;
}

uint64_t mix(uint64_t state, uint64_t word) noexcept {
  state = (state ^ word) * kMultiplier;
  return state ^ (state >> 29);
}

uint32_t tag_of(uint64_t hash) noexcept { return static_cast<uint32_t>(hash >> 56) << 24; }

}  // namespace

void Vocab::reserve(size_t n_tokens, size_t n_bytes) {
  offsets_.reserve(n_tokens + 1);
  kinds_.reserve(n_tokens);
  blob_.reserve(n_bytes);
}

void Vocab::add(std::string_view bytes, TokenType type, bool plain) {
  blob_.insert(blob_.end(), bytes.begin(), bytes.end());
  offsets_.push_back(static_cast<uint32_t>(blob_.size()));
  kinds_.push_back(static_cast<uint8_t>(static_cast<uint8_t>(type) | (plain ? kPlainBit : 0)));
  if (plain && bytes.size() > max_plain_bytes_) max_plain_bytes_ = bytes.size();
}

uint64_t Vocab::hash(std::string_view bytes, bool plain) const noexcept {
  uint64_t state = seed_ + bytes.size() * 2 + (plain ? 1 : 0);
  const char* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) state = mix(state, load<uint64_t>(at));
  state = mix(state, load_tail(at, left));
  return mix(state, state >> 32);
}

int32_t Vocab::find(std::string_view bytes, bool plain, uint64_t h) const noexcept {
  if (slots_.empty()) return kNone;
  const size_t mask = slots_.size() - 1;
  for (size_t at = h & mask;; at = (at + 1) & mask) {
    const uint32_t slot = slots_[at];
    if (slot == 0) return kNone;
    if ((slot & ~kIdMask) != tag_of(h)) continue;
    const auto id = static_cast<int32_t>((slot & kIdMask) - 1);
    if (is_plain(id) == plain && this->bytes(id) == bytes) return id;
  }
}

Vocab::Duplicate Vocab::index() {
  Duplicate duplicate;
  for (int attempt = 1; attempt <= kMaxSeeds; ++attempt) {
    seed_ = kMultiplier * static_cast<uint64_t>(attempt);
    if (try_index(duplicate)) return duplicate;
  }
  throw Error(ErrorKind::kModelLimit,
              "key 'tokenizer.ggml.tokens': too many tokens collide in the token table");
}

bool Vocab::try_index(Duplicate& duplicate) {
  slots_.assign(std::bit_ceil(kinds_.size() * 2), 0);  // half are free at least
  const size_t mask = slots_.size() - 1;
  // The slots are far apart in memory: hashes are made some tokens ahead, and the slots prefetched.
  std::array<uint64_t, kAhead> hashes{};
  const auto prepare = [&](int32_t id) {
    if (id >= size()) return;
    const uint64_t h = hash(bytes(id), is_plain(id));
    hashes[static_cast<size_t>(id) % kAhead] = h;
    __builtin_prefetch(&slots_[h & mask], 1);
  };
  for (int32_t id = 0; id < static_cast<int32_t>(kAhead); ++id) prepare(id);
  for (int32_t id = 0; id < size(); ++id) {
    const uint64_t h = hashes[static_cast<size_t>(id) % kAhead];
    prepare(id + static_cast<int32_t>(kAhead));
    const std::string_view text = bytes(id);
    const bool plain = is_plain(id);
    if (!plain && (text.empty() || type(id) == TokenType::kByte)) continue;
    size_t n_probes = 0;
    size_t at = h & mask;
    for (; slots_[at] != 0; at = (at + 1) & mask) {
      if (++n_probes > kMaxProbes) return false;
      if ((slots_[at] & ~kIdMask) != tag_of(h)) continue;
      const auto other = static_cast<int32_t>((slots_[at] & kIdMask) - 1);
      if (is_plain(other) == plain && bytes(other) == text) {
        duplicate = {other, id};
        return true;
      }
    }
    slots_[at] = tag_of(h) | static_cast<uint32_t>(id + 1);
  }
  return true;
}

size_t Vocab::memory_bytes() const noexcept {
  // What was reserved beyond the bytes is seldom touched.
  return blob_.size() + offsets_.capacity() * sizeof(uint32_t) + kinds_.capacity() +
         slots_.capacity() * sizeof(uint32_t);
}

}  // namespace smallmind
