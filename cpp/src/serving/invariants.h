// What must always hold of the KV cache, checked on the whole of it: by builds with
// SMALLMIND_CHECK_INVARIANTS after each step, and by the simulator.
#pragma once

#include <span>
#include <string>

#include "serving/kv_cache.h"
#include "serving/prefix_cache.h"

namespace smallmind {

// What is wrong, in words; empty when all is well. `running`: every sequence that has been started
// and not stopped. Slow: it walks all blocks.
std::string find_violation(const PrefixCache& cache, std::span<const KvCache* const> running);

}  // namespace smallmind
