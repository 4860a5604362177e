#include "smallmind/error.h"

#include <utility>

namespace smallmind {

Error::Error(ErrorKind kind, std::string message)
    : kind_(kind), code_(default_code(kind)), message_(std::move(message)) {}

Error::Error(ErrorKind kind, std::string_view code, std::string message)
    : kind_(kind), code_(code), message_(std::move(message)) {}

std::string_view default_code(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kModelNotFound:
      return "MODEL_NOT_FOUND";
    case ErrorKind::kModelFormat:
      return "MODEL_FORMAT";
    case ErrorKind::kModelLimit:
      return "MODEL_LIMIT";
    case ErrorKind::kUnsupportedModel:
      return "UNSUPPORTED_MODEL";
    case ErrorKind::kModelIo:
      return "MODEL_IO";
    case ErrorKind::kMemoryBudget:
      return "MEMORY_BUDGET_EXCEEDED";
    case ErrorKind::kContextLength:
      return "CONTEXT_LENGTH";
    case ErrorKind::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case ErrorKind::kSessionBusy:
      return "SESSION_BUSY";
    case ErrorKind::kSessionClosed:
      return "SESSION_CLOSED";
    case ErrorKind::kEngineClosed:
      return "ENGINE_CLOSED";
    case ErrorKind::kForkedProcess:
      return "FORKED_PROCESS";
    case ErrorKind::kQueueFull:
      return "BACKPRESSURE_QUEUE_FULL";
    case ErrorKind::kBufferFull:
      return "BACKPRESSURE_BUFFER_FULL";
    case ErrorKind::kCancelled:
      return "CANCELLED_BY_CALLER";
    case ErrorKind::kDeadline:
      return "CANCELLED_BY_TIMEOUT";
    case ErrorKind::kThreadSafety:
      return "THREAD_SAFETY";
    case ErrorKind::kInference:
      return "INFERENCE_FAILED";
  }
  return "UNKNOWN";
}

}  // namespace smallmind
