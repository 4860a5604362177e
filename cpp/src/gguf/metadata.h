// The key-value part of a GGUF file, readable only through typed accessors.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/layout.h"

namespace smallmind::gguf {

// A string array as one blob and offsets: item i is blob[offsets[i], offsets[i + 1]).
struct StringArrayView {
  std::string_view blob;
  std::span<const uint32_t> offsets;  // size() + 1 entries
  size_t size() const { return offsets.empty() ? 0 : offsets.size() - 1; }
  std::string_view operator[](size_t i) const {
    return blob.substr(offsets[i], offsets[i + 1] - offsets[i]);
  }
};

struct KeyValueSummary {
  std::string key;
  std::string type;   // "u32", "str", "array[str]"
  std::string value;  // escaped, cut
};

// Immutable after parsing; any thread. Views live as long as the Metadata.
// Every accessor throws Error(kModelFormat) "key 'k': wants u32, has str" when the type differs;
// require_* also when the key is absent; find_* gives nothing when it is absent. Floats that are
// NaN or infinite are refused by find_f32.
class Metadata {
 public:
  Metadata();
  ~Metadata();
  Metadata(Metadata&&) noexcept;
  Metadata& operator=(Metadata&&) noexcept;

  bool has(std::string_view key) const;
  std::optional<uint32_t> find_u32(std::string_view key) const;
  std::optional<float> find_f32(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  std::optional<StringArrayView> find_strings(std::string_view key) const;
  std::optional<std::span<const float>> find_f32_array(std::string_view key) const;
  std::optional<std::span<const int32_t>> find_i32_array(std::string_view key) const;
  std::optional<std::span<const uint32_t>> find_u32_array(std::string_view key) const;
  std::optional<std::span<const uint8_t>> find_bool_array(
      std::string_view key) const;  // each 0 or 1
  uint32_t require_u32(std::string_view key) const;
  float require_f32(std::string_view key) const;
  std::string_view require_string(std::string_view key) const;

  std::vector<KeyValueSummary> summaries(size_t max_chars = 80) const;  // in file order
  // Frees the values of the large tokenizer arrays (tokens, scores, merges, types): after the
  // tokenizer is built they are dead weight. The accessors then give empty arrays, and views of
  // them are dead. REQUIRES: no other thread uses this.
  void drop_tokenizer_arrays();

  struct Impl;  // filled by the reader
  explicit Metadata(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace smallmind::gguf
