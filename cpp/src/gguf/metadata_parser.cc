#include <algorithm>
#include <numeric>
#include <utility>

#include "base/checked_int.h"
#include "base/utf8.h"
#include "gguf/parser.h"

namespace smallmind::gguf {
namespace {

// A key has a length, one byte of name, a type and one byte of value at least.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinStringBytes = 8;
// In the texts of vocabularies a token has fewer bytes on average, so they need not be moved as
// they grow. With the offsets this is less than twice what the lengths take in the file.
constexpr size_t kStringRoom = 10;

constexpr std::string_view kTemplateKey = "tokenizer.chat_template";
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

uint64_t max_string_bytes(std::string_view key) {
  if (key == kTokensKey) return kMaxTokenBytes;
  if (key == kMergesKey) return kMaxMergeBytes;
  if (key.starts_with(kTemplateKey)) return kMaxTemplateBytes;
  return kMaxStringBytes;
}

// Vocabularies hold byte-level tokens, which need not be characters.
bool may_hold_raw_bytes(std::string_view key) { return key == kTokensKey || key == kMergesKey; }

class EntryParser {
 public:
  EntryParser(ByteReader& reader, Entry& entry) : reader_(reader), entry_(entry) {}

  void parse(const std::string& number) {
    reader_.set_subject("metadata entry", number);
    entry_.byte = reader_.offset();
    parse_key();
    reader_.set_subject("key", entry_.key);
    entry_.type = take_type("value type");
    entry_.value = entry_.type == ValueType::kArray ? Value(take_array()) : Value(take_scalar());
  }

 private:
  void parse_key() {
    const auto n_bytes = reader_.take<uint64_t>("key length");
    reader_.require_items(n_bytes, 1, "key length");
    if (n_bytes > kMaxKeyBytes) {
      reader_.fail_at(entry_.byte, ErrorKind::kModelFormat,
                      "key length " + std::to_string(n_bytes) + " is more than " +
                          std::to_string(kMaxKeyBytes));
    }
    reader_.append_to(entry_.key, n_bytes, "key");
    check_name(reader_, entry_.key, entry_.byte, "key");
  }

  ValueType take_type(const char* what) {
    const uint64_t byte = reader_.offset();
    const auto id = reader_.take<uint32_t>(what);
    if (id > static_cast<uint32_t>(ValueType::kF64)) {
      reader_.fail_at(byte, ErrorKind::kModelFormat,
                      std::string(what) + " " + std::to_string(id) + " is unknown");
    }
    return static_cast<ValueType>(id);
  }

  Scalar take_scalar() {
    switch (entry_.type) {
      case ValueType::kU8:
        return reader_.take<uint8_t>("value");
      case ValueType::kI8:
        return reader_.take<int8_t>("value");
      case ValueType::kU16:
        return reader_.take<uint16_t>("value");
      case ValueType::kI16:
        return reader_.take<int16_t>("value");
      case ValueType::kU32:
        return reader_.take<uint32_t>("value");
      case ValueType::kI32:
        return reader_.take<int32_t>("value");
      case ValueType::kU64:
        return reader_.take<uint64_t>("value");
      case ValueType::kI64:
        return reader_.take<int64_t>("value");
      case ValueType::kF32:
        return reader_.take<float>("value");
      case ValueType::kF64:
        return reader_.take<double>("value");
      case ValueType::kBool:
        return take_bool();
      case ValueType::kString:
      case ValueType::kArray:
        break;
    }
    return take_string();
  }

  bool take_bool() {
    const uint64_t byte = reader_.offset();
    const auto value = reader_.take<uint8_t>("value");
    check_bool(value, byte);
    return value == 1;
  }

  void check_bool(uint8_t value, uint64_t byte) {
    if (value > 1) {
      reader_.fail_at(byte, ErrorKind::kModelFormat,
                      "a bool wants 0 or 1, has " + std::to_string(value));
    }
  }

  std::string take_string() {
    const uint64_t byte = reader_.offset();
    std::string value;
    append_string(value, max_string_bytes(entry_.key));
    check_utf8(value, byte + kMinStringBytes);
    return value;
  }

  void append_string(std::string& out, uint64_t max_bytes) {
    const uint64_t byte = reader_.offset();
    const auto n_bytes = reader_.take<uint64_t>("string length");
    if (n_bytes > max_bytes) {
      reader_.require_items(n_bytes, 1, "string length");
      reader_.fail_at(byte, ErrorKind::kModelLimit,
                      "string length " + std::to_string(n_bytes) + " is more than the limit " +
                          std::to_string(max_bytes));
    }
    reader_.append_to(out, n_bytes, "string");
  }

  void check_utf8(std::string_view value, uint64_t first_byte) {
    const size_t bad = find_invalid_utf8(value);
    if (bad != std::string_view::npos) {
      reader_.fail_at(first_byte + bad, ErrorKind::kModelFormat, "the string is not UTF-8");
    }
  }

  Array take_array() {
    entry_.element_type = take_type("array element type");
    switch (entry_.element_type) {
      case ValueType::kU8:
        return take_numbers<uint8_t>();
      case ValueType::kI8:
        return take_numbers<int8_t>();
      case ValueType::kU16:
        return take_numbers<uint16_t>();
      case ValueType::kI16:
        return take_numbers<int16_t>();
      case ValueType::kU32:
        return take_numbers<uint32_t>();
      case ValueType::kI32:
        return take_numbers<int32_t>();
      case ValueType::kU64:
        return take_numbers<uint64_t>();
      case ValueType::kI64:
        return take_numbers<int64_t>();
      case ValueType::kF32:
        return take_numbers<float>();
      case ValueType::kF64:
        return take_numbers<double>();
      case ValueType::kBool:
        return take_bools();
      case ValueType::kString:
        return take_strings();
      case ValueType::kArray:
        break;
    }
    reader_.fail(ErrorKind::kUnsupportedModel, "arrays of arrays are not read");
  }

  size_t take_array_length(uint64_t min_element_bytes) {
    const uint64_t byte = reader_.offset();
    const auto n = reader_.take<uint64_t>("array length");
    reader_.require_items(n, min_element_bytes, "array length");
    if (n > kMaxArrayLength) {
      reader_.fail_at(byte, ErrorKind::kModelLimit,
                      "array length " + std::to_string(n) + " is more than the limit " +
                          std::to_string(kMaxArrayLength));
    }
    return static_cast<size_t>(n);
  }

  template <class T>
  std::vector<T> take_numbers() {
    const size_t n = take_array_length(sizeof(T));
    reader_.require_bytes(uint64_t{n} * sizeof(T), "array");  // n <= kMaxArrayLength: no wrap
    std::vector<T> values(n);
    reader_.take_bytes(std::as_writable_bytes(std::span(values)), "array");
    return values;
  }

  std::vector<BoolByte> take_bools() {
    const size_t n = take_array_length(1);
    const uint64_t byte = reader_.offset();
    reader_.require_bytes(n, "array");
    std::vector<BoolByte> values(n);
    reader_.take_bytes(std::as_writable_bytes(std::span(values)), "array");
    for (size_t i = 0; i < n; ++i) check_bool(static_cast<uint8_t>(values[i]), byte + i);
    return values;
  }

  StringArray take_strings() {
    const size_t n = take_array_length(kMinStringBytes);
    const uint64_t max_bytes = max_string_bytes(entry_.key);
    const bool raw = may_hold_raw_bytes(entry_.key);
    StringArray strings;
    strings.blob.reserve(n * kStringRoom);
    strings.offsets.reserve(n + 1);
    strings.offsets.push_back(0);
    for (size_t i = 0; i < n; ++i) {
      const uint64_t byte = reader_.offset();
      append_string(strings.blob, max_bytes);
      const uint32_t start = strings.offsets.back();
      if (!raw) check_utf8(std::string_view(strings.blob).substr(start), byte + kMinStringBytes);
      // Fits: the blob is a part of the header, which is at most kMaxHeaderBytes.
      strings.offsets.push_back(static_cast<uint32_t>(strings.blob.size()));
    }
    return strings;
  }

  ByteReader& reader_;
  Entry& entry_;
};

// Sorting, not hashing: no choice of keys can make it slow.
std::vector<uint32_t> sort_by_key(const ByteReader& reader, const std::vector<Entry>& entries) {
  std::vector<uint32_t> by_key(entries.size());
  std::iota(by_key.begin(), by_key.end(), 0u);
  // Equal keys in file order, so that the message names the second.
  std::sort(by_key.begin(), by_key.end(), [&](uint32_t a, uint32_t b) {
    const int order = entries[a].key.compare(entries[b].key);
    return order < 0 || (order == 0 && a < b);
  });
  const auto duplicate =
      std::adjacent_find(by_key.begin(), by_key.end(),
                         [&](uint32_t a, uint32_t b) { return entries[a].key == entries[b].key; });
  if (duplicate != by_key.end()) {
    const Entry& second = entries[duplicate[1]];
    reader.fail_at(second.byte, ErrorKind::kModelFormat,
                   "key '" + escape(second.key) + "' is given twice");
  }
  return by_key;
}

void check_n_templates(const ByteReader& reader, const std::vector<Entry>& entries) {
  const auto is_template = [](const Entry& entry) { return entry.key.starts_with(kTemplateKey); };
  const auto n = std::count_if(entries.begin(), entries.end(), is_template);
  if (static_cast<uint64_t>(n) > kMaxTemplates) {
    reader.fail(ErrorKind::kModelLimit, std::to_string(n) + " keys '" + std::string(kTemplateKey) +
                                            "*' are more than the limit " +
                                            std::to_string(kMaxTemplates));
  }
}

}  // namespace

void check_name(const ByteReader& reader, const std::string& name, uint64_t byte,
                const char* what) {
  const auto refuse = [&](const std::string& why) {
    reader.fail_at(byte, ErrorKind::kModelFormat,
                   std::string(what) + " '" + escape(name) + "' " + why);
  };
  if (name.empty()) refuse("is empty");
  if (find_invalid_utf8(name) != std::string_view::npos) refuse("is not UTF-8");
  for (size_t at = 0; at < name.size();) {
    const char32_t c = next_code_point(name, at);
    if (c < 0x20 || (c >= 0x7F && c < 0xA0)) refuse("has a control character");
  }
}

std::unique_ptr<Metadata::Impl> parse_metadata(ByteReader& reader, uint64_t n_kv) {
  reader.require_items(n_kv, kMinEntryBytes, "n_kv");
  auto impl = std::make_unique<Metadata::Impl>();
  impl->entries.reserve(static_cast<size_t>(n_kv));
  for (uint64_t i = 0; i < n_kv; ++i) {
    const std::string number = std::to_string(i);
    EntryParser(reader, impl->entries.emplace_back()).parse(number);
    reader.set_subject("metadata", {});
  }
  reader.set_subject("metadata", {});
  impl->by_key = sort_by_key(reader, impl->entries);
  check_n_templates(reader, impl->entries);
  return impl;
}

}  // namespace smallmind::gguf
