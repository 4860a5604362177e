// What every sampling step is made of. A step is one struct in one file of steps/:
//   kFields   its options: name, member, range, meaning. Validation and documentation derive;
//   adjust()  changes single logits of the row (bias, penalties), or
//   narrow()  keeps the first n of the candidates (top-k, top-p, min-p).
// Its name then goes into the list of steps.h.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "sampling/token_counts.h"
#include "smallmind/options.h"

namespace smallmind {

struct RealField {
  const char* name;
  double SamplingParams::*member;
  double low;
  bool low_is_allowed;
  double high;
  const char* meaning;
};

struct CountField {
  const char* name;
  int64_t SamplingParams::*member;
  int64_t low;
  int64_t high;
  const char* meaning;
};

inline constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();

}  // namespace smallmind
