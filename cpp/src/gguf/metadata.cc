#include "gguf/metadata.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/utf8.h"
#include "gguf/metadata_impl.h"
#include "smallmind/error.h"

namespace smallmind::gguf {
namespace {

[[noreturn]] void fail(std::string_view key, const std::string& why) {
  throw Error(ErrorKind::kModelFormat, "key '" + escape(key) + "': " + why);
}

[[noreturn]] void fail_type(const Entry& entry, const std::string& wanted) {
  fail(entry.key, "wants " + wanted + ", has " + type_name(entry));
}

template <class T>
const T* scalar_if(const Entry& entry) {
  const Scalar* scalar = std::get_if<Scalar>(&entry.value);
  return scalar == nullptr ? nullptr : std::get_if<T>(scalar);
}

template <class T>
const T* array_if(const Entry& entry) {
  const Array* array = std::get_if<Array>(&entry.value);
  return array == nullptr ? nullptr : std::get_if<T>(array);
}

// Null for an absent key; throws for another type.
template <class T>
const T* find_scalar(const Metadata::Impl& impl, std::string_view key, const char* wanted) {
  const Entry* entry = impl.find(key);
  if (entry == nullptr) return nullptr;
  const T* value = scalar_if<T>(*entry);
  if (value == nullptr) fail_type(*entry, wanted);
  return value;
}

template <class T>
const std::vector<T>* find_array(const Metadata::Impl& impl, std::string_view key,
                                 const char* wanted) {
  const Entry* entry = impl.find(key);
  if (entry == nullptr) return nullptr;
  const auto* values = array_if<std::vector<T>>(*entry);
  if (values == nullptr) fail_type(*entry, wanted);
  return values;
}

}  // namespace

const Entry* Metadata::Impl::find(std::string_view key) const {
  const auto at = std::lower_bound(
      by_key.begin(), by_key.end(), key,
      [&](uint32_t index, std::string_view wanted) { return entries[index].key < wanted; });
  return at != by_key.end() && entries[*at].key == key ? &entries[*at] : nullptr;
}

Metadata::Metadata() : impl_(std::make_unique<Impl>()) {}
Metadata::~Metadata() = default;
Metadata::Metadata(Metadata&&) noexcept = default;
Metadata& Metadata::operator=(Metadata&&) noexcept = default;
Metadata::Metadata(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

bool Metadata::has(std::string_view key) const { return impl_->find(key) != nullptr; }

std::optional<uint32_t> Metadata::find_u32(std::string_view key) const {
  const auto* value = find_scalar<uint32_t>(*impl_, key, "u32");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<float> Metadata::find_f32(std::string_view key) const {
  const auto* value = find_scalar<float>(*impl_, key, "f32");
  if (value == nullptr) return std::nullopt;
  if (std::isnan(*value)) fail(key, "wants a finite number, has nan");
  if (std::isinf(*value)) fail(key, "wants a finite number, has an infinity");
  return *value;
}

std::optional<bool> Metadata::find_bool(std::string_view key) const {
  const auto* value = find_scalar<bool>(*impl_, key, "bool");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<std::string_view> Metadata::find_string(std::string_view key) const {
  const auto* value = find_scalar<std::string>(*impl_, key, "str");
  return value == nullptr ? std::nullopt : std::optional<std::string_view>(*value);
}

std::optional<StringArrayView> Metadata::find_strings(std::string_view key) const {
  const Entry* entry = impl_->find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* strings = array_if<StringArray>(*entry);
  if (strings == nullptr) fail_type(*entry, "array[str]");
  return StringArrayView{strings->blob, strings->offsets};
}

std::optional<std::span<const float>> Metadata::find_f32_array(std::string_view key) const {
  const auto* values = find_array<float>(*impl_, key, "array[f32]");
  return values == nullptr ? std::nullopt : std::optional<std::span<const float>>(*values);
}

std::optional<std::span<const int32_t>> Metadata::find_i32_array(std::string_view key) const {
  const auto* values = find_array<int32_t>(*impl_, key, "array[i32]");
  return values == nullptr ? std::nullopt : std::optional<std::span<const int32_t>>(*values);
}

std::optional<std::span<const uint32_t>> Metadata::find_u32_array(std::string_view key) const {
  const Entry* entry = impl_->find(key);
  if (entry == nullptr) return std::nullopt;
  if (const auto* values = array_if<std::vector<uint32_t>>(*entry)) {
    return std::span<const uint32_t>(*values);
  }
  const auto* values = array_if<std::vector<int32_t>>(*entry);
  if (values == nullptr) fail_type(*entry, "array[u32]");
  // Converters write counts for each layer as i32. Without negative values the bits are the same,
  // and a signed integer may be read through its unsigned type.
  const auto is_negative = [](int32_t value) { return value < 0; };
  const auto negative = std::find_if(values->begin(), values->end(), is_negative);
  if (negative != values->end()) {
    fail(key, "wants array[u32], has " + std::to_string(*negative) + " at index " +
                  std::to_string(negative - values->begin()));
  }
  return std::span(reinterpret_cast<const uint32_t*>(values->data()), values->size());
}

std::optional<std::span<const uint8_t>> Metadata::find_bool_array(std::string_view key) const {
  const auto* values = find_array<BoolByte>(*impl_, key, "array[bool]");
  if (values == nullptr) return std::nullopt;
  return std::span(reinterpret_cast<const uint8_t*>(values->data()), values->size());
}

uint32_t Metadata::require_u32(std::string_view key) const {
  const auto value = find_u32(key);
  if (!value) fail(key, "is missing, wants u32");
  return *value;
}

float Metadata::require_f32(std::string_view key) const {
  const auto value = find_f32(key);
  if (!value) fail(key, "is missing, wants f32");
  return *value;
}

std::string_view Metadata::require_string(std::string_view key) const {
  const auto value = find_string(key);
  if (!value) fail(key, "is missing, wants str");
  return *value;
}

std::vector<KeyValueSummary> Metadata::summaries(size_t max_chars) const {
  std::vector<KeyValueSummary> result;
  result.reserve(impl_->entries.size());
  for (const Entry& entry : impl_->entries) {
    result.push_back({escape(entry.key, max_chars), type_name(entry), summarize(entry, max_chars)});
  }
  return result;
}

void Metadata::drop_tokenizer_arrays() {
  static constexpr std::array<std::string_view, 4> kKeys = {
      "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.merges",
      "tokenizer.ggml.token_type"};
  for (const std::string_view key : kKeys) {
    const auto is_key = [&](const Entry& entry) { return entry.key == key; };
    const auto entry = std::find_if(impl_->entries.begin(), impl_->entries.end(), is_key);
    if (entry == impl_->entries.end()) continue;
    if (Array* array = std::get_if<Array>(&entry->value)) {
      std::visit([](auto& values) { values = {}; }, *array);
    }
  }
}

}  // namespace smallmind::gguf
