// Builds GGUF bytes piece by piece, right or wrong: written from the format's description in
// layout.h, without the reader's code.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "gguf/reader.h"
#include "smallmind/error.h"

namespace smallmind::gguf {

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::string string_bytes(std::string_view text) {
  return bytes_of<uint64_t>(text.size()) + std::string(text);
}

inline std::string entry(std::string_view key, uint32_t type, const std::string& value) {
  return string_bytes(key) + bytes_of(type) + value;
}

inline std::string u32_entry(std::string_view key, uint32_t value) {
  return entry(key, 4, bytes_of(value));
}

inline std::string string_entry(std::string_view key, std::string_view value) {
  return entry(key, 8, string_bytes(value));
}

inline std::string array_entry(std::string_view key, uint32_t element_type, uint64_t n,
                               const std::string& elements) {
  return entry(key, 9, bytes_of(element_type) + bytes_of(n) + elements);
}

inline std::string tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                          uint64_t offset) {
  std::string bytes = string_bytes(name) + bytes_of(static_cast<uint32_t>(dims.size()));
  for (const uint64_t extent : dims) bytes += bytes_of(extent);
  return bytes + bytes_of(type) + bytes_of(offset);
}

inline std::string header(uint64_t n_tensors, uint64_t n_kv, uint32_t version = 3) {
  return "GGUF" + bytes_of(version) + bytes_of(n_tensors) + bytes_of(n_kv);
}

// Zeros up to a multiple of `alignment`, then n_bytes of data.
inline std::string with_data(std::string head, size_t n_bytes, size_t alignment = 32) {
  head.resize((head.size() + alignment - 1) / alignment * alignment + n_bytes, '\0');
  return head;
}

inline Header parse_bytes(std::string_view bytes, const CallHooks& hooks = {}) {
  return parse(*memory_source(std::as_bytes(std::span(bytes))), hooks);
}

struct Failure {
  ErrorKind kind;
  std::string message;
};

// Fails the test when the call throws nothing or something else than an Error.
Failure failure_of(const std::function<void()>& call);
Failure failure_of_parsing(std::string_view bytes);
bool contains(const Failure& failure, std::string_view text);

// A small file with every value type, three tensors and data.
std::string complete_file();

}  // namespace smallmind::gguf
