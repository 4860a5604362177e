// Text without special tokens to ids: the seam between the families and the tokenizer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace smallmind {

// Const: any thread, any time.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;

  // Appends the ids of `text`. after_special: the text begins the whole or follows a special token
  // (where some vocabularies put a space). `offset` is where the text stands in the caller's, for
  // messages. REQUIRES: text well-formed UTF-8, not empty, less than 4 GiB.
  virtual void encode(std::string_view text, bool after_special, size_t offset,
                      std::vector<int32_t>& ids) const = 0;
  virtual size_t memory_bytes() const noexcept = 0;
};

}  // namespace smallmind
