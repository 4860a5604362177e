#include "gguf_bytes.h"

#include <gtest/gtest.h>

namespace smallmind::gguf {

Failure failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    for (const char c : message) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << "raw byte in a message";
    return {error.kind(), message};
  } catch (const std::exception& error) {
    ADD_FAILURE() << "not an Error: " << error.what();
    return {ErrorKind::kInference, error.what()};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {ErrorKind::kInference, ""};
}

Failure failure_of_parsing(std::string_view bytes) {
  return failure_of([&] { parse_bytes(bytes); });
}

bool contains(const Failure& failure, std::string_view text) {
  return failure.message.find(text) != std::string::npos;
}

std::string complete_file() {
  const std::string entries =
      string_entry("general.architecture", "llama") + u32_entry("general.alignment", 64) +
      entry("a.u8", 0, bytes_of<uint8_t>(200)) + entry("a.i8", 1, bytes_of<int8_t>(-100)) +
      entry("a.u16", 2, bytes_of<uint16_t>(60000)) + entry("a.i16", 3, bytes_of<int16_t>(-30000)) +
      entry("a.u32", 4, bytes_of<uint32_t>(4000000000)) +
      entry("a.i32", 5, bytes_of<int32_t>(-2000000000)) + entry("a.f32", 6, bytes_of(0.5f)) +
      entry("a.bool", 7, bytes_of<uint8_t>(1)) + string_entry("a.str", "caf\xC3\xA9") +
      entry("a.u64", 10, bytes_of<uint64_t>(1) + "") + entry("a.i64", 11, bytes_of<int64_t>(-1)) +
      entry("a.f64", 12, bytes_of(0.25)) + array_entry("b.u8", 0, 3, "\x01\x02\x03") +
      array_entry("b.i32", 5, 2, bytes_of<int32_t>(7) + bytes_of<int32_t>(8)) +
      array_entry("b.neg", 5, 2, bytes_of<int32_t>(7) + bytes_of<int32_t>(-8)) +
      array_entry("b.u32", 4, 2, bytes_of<uint32_t>(9) + bytes_of<uint32_t>(10)) +
      array_entry("b.f32", 6, 2, bytes_of(1.5f) + bytes_of(-2.5f)) +
      array_entry("b.bool", 7, 3, std::string("\x01\x00\x01", 3)) +
      array_entry("tokenizer.ggml.tokens", 8, 3,
                  string_bytes("a") + string_bytes("") + string_bytes("\xFF\xFE"));
  const std::string tensors =
      tensor("x", {32, 2}, 8, 0) + tensor("y", {5}, 0, 128) + tensor("z", {2, 3, 4, 1}, 1, 192);
  return with_data(header(3, 21) + entries + tensors, 192 + 48, 64);
}

}  // namespace smallmind::gguf
