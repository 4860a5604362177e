// A token with its logit, and the one order of all choices: logit descending, then id ascending.
#pragma once

#include <cstdint>

namespace smallmind {

struct TokenLogit {
  float logit = 0;
  int32_t id = 0;
};

inline bool ranks_before(const TokenLogit& a, const TokenLogit& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace smallmind
