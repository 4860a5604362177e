// The one error type of the core: every failure that a user can cause or meet is thrown as an
// Error.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace smallmind {

// What went wrong, in the classes that a caller can react to; bindings map each to one exception.
enum class ErrorKind : unsigned char {
  kModelNotFound,
  kModelFormat,
  kModelLimit,
  kUnsupportedModel,
  kModelIo,
  kMemoryBudget,
  kContextLength,
  kInvalidArgument,
  kSessionBusy,
  kSessionClosed,
  kEngineClosed,
  kForkedProcess,
  kQueueFull,
  kBufferFull,
  kCancelled,
  kDeadline,
  kThreadSafety,
  kInference,
};

// An immutable value. The message names the field and the value at fault and is plain ASCII-escaped
// text of bounded length: bytes that come from a file or a request pass through escape() of
// base/utf8.h first.
class Error : public std::exception {
 public:
  // The code is one of the stable upper-case names that users match on, for example
  // "CANCELLED_BY_CALLER". With the first constructor the code is default_code(kind).
  Error(ErrorKind kind, std::string message);
  Error(ErrorKind kind, std::string_view code, std::string message);

  ErrorKind kind() const noexcept { return kind_; }
  const std::string& code() const noexcept { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorKind kind_;
  std::string code_;
  std::string message_;
};

// "MODEL_FORMAT" for kModelFormat and so on; CANCELLED_BY_CALLER for kCancelled,
// CANCELLED_BY_TIMEOUT for kDeadline, BACKPRESSURE_QUEUE_FULL for kQueueFull,
// BACKPRESSURE_BUFFER_FULL for kBufferFull, MEMORY_BUDGET_EXCEEDED for kMemoryBudget.
std::string_view default_code(ErrorKind kind) noexcept;

}  // namespace smallmind
