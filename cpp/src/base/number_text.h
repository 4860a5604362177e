// Numbers in messages: the same whatever the process's locale.
#pragma once

#include <charconv>
#include <string>

namespace smallmind {

// The shortest text that reads back as the same value: "0.1", "1e+300", "nan".
inline std::string number_text(double value) {
  char buffer[32];
  const std::to_chars_result end = std::to_chars(buffer, buffer + sizeof buffer, value);
  return std::string(buffer, end.ptr);
}

}  // namespace smallmind
