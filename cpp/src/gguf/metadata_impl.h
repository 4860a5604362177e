// What a Metadata holds: between the parser that fills it and the accessors that read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "gguf/layout.h"
#include "gguf/metadata.h"

namespace smallmind::gguf {

// An array element of type bool: one byte, 0 or 1.
enum class BoolByte : uint8_t { kFalse = 0, kTrue = 1 };

struct StringArray {
  std::string blob;
  std::vector<uint32_t> offsets;  // n + 1 entries
};

using Scalar = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, uint64_t,
                            int64_t, float, double, bool, std::string>;

using Array = std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
                           std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>,
                           std::vector<uint64_t>, std::vector<int64_t>, std::vector<float>,
                           std::vector<double>, std::vector<BoolByte>, StringArray>;

using Value = std::variant<Scalar, Array>;

struct Entry {
  std::string key;
  ValueType type = ValueType::kU8;
  ValueType element_type = ValueType::kU8;  // of an array
  Value value;
  uint64_t byte = 0;  // where the entry starts in the file
};

struct Metadata::Impl {
  std::vector<Entry> entries;    // in file order
  std::vector<uint32_t> by_key;  // indices into entries, ascending by key; no two keys are equal

  const Entry* find(std::string_view key) const;  // null: absent
};

// "u32", "str", "array[f32]".
std::string_view type_name(ValueType type);
std::string type_name(const Entry& entry);

// Escaped and cut to about max_chars: for people.
std::string summarize(const Entry& entry, size_t max_chars);

}  // namespace smallmind::gguf
