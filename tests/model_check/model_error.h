// The core's Error, without its sources: models throw it at most to be counted.
#pragma once

#include "smallmind/error.h"

namespace smallmind {

inline Error::Error(ErrorKind kind, std::string message)
    : kind_(kind), code_("MODEL"), message_(std::move(message)) {}
inline Error::Error(ErrorKind kind, std::string_view code, std::string message)
    : kind_(kind), code_(code), message_(std::move(message)) {}

}  // namespace smallmind
