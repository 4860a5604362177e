// Metadata as people see it: escaped, cut, and the same in every locale.
#include <array>
#include <charconv>
#include <type_traits>

#include "base/utf8.h"
#include "gguf/metadata_impl.h"

namespace smallmind::gguf {
namespace {

template <class T>
std::string to_text(const T& value, size_t max_chars) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, BoolByte>) {
    return value == BoolByte::kTrue ? "true" : "false";
  } else if constexpr (std::is_arithmetic_v<T>) {
    std::array<char, 32> text;  // the shortest form of any number fits
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    return std::string(text.data(), end);
  } else {
    return "'" + escape(value, max_chars) + "'";
  }
}

template <class Values>
std::string list_text(const Values& values, size_t max_chars) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += ", ";
    if (text.size() >= max_chars) return text + "...] (" + std::to_string(values.size()) + ")";
    text += to_text(values[i], max_chars);
  }
  return text + "]";
}

std::string array_text(const StringArray& strings, size_t max_chars) {
  return list_text(StringArrayView{strings.blob, strings.offsets}, max_chars);
}

template <class T>
std::string array_text(const std::vector<T>& values, size_t max_chars) {
  return list_text(values, max_chars);
}

}  // namespace

std::string_view type_name(ValueType type) {
  switch (type) {
    case ValueType::kU8:
      return "u8";
    case ValueType::kI8:
      return "i8";
    case ValueType::kU16:
      return "u16";
    case ValueType::kI16:
      return "i16";
    case ValueType::kU32:
      return "u32";
    case ValueType::kI32:
      return "i32";
    case ValueType::kF32:
      return "f32";
    case ValueType::kBool:
      return "bool";
    case ValueType::kString:
      return "str";
    case ValueType::kArray:
      return "array";
    case ValueType::kU64:
      return "u64";
    case ValueType::kI64:
      return "i64";
    case ValueType::kF64:
      return "f64";
  }
  return "unknown";
}

std::string type_name(const Entry& entry) {
  if (entry.type != ValueType::kArray) return std::string(type_name(entry.type));
  return "array[" + std::string(type_name(entry.element_type)) + "]";
}

std::string summarize(const Entry& entry, size_t max_chars) {
  if (const Scalar* scalar = std::get_if<Scalar>(&entry.value)) {
    return std::visit([&](const auto& value) { return to_text(value, max_chars); }, *scalar);
  }
  return std::visit([&](const auto& values) { return array_text(values, max_chars); },
                    std::get<Array>(entry.value));
}

}  // namespace smallmind::gguf
