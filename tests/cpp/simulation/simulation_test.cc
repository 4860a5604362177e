// The whole engine but its kernels, run deterministically: seeds decide arrivals, lengths, cancels,
// closes, forks, salts, refused memory and slow readers; after each step the whole KV cache is
// checked, every request ends once, and its tokens are those of the same request alone (D26, G11,
// L-03, L-06, L-09, P-08).
//
// SMALLMIND_SEEDS=n runs n seeds, SMALLMIND_SEED=s that one alone: what a failure prints.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "simulation/world.h"

namespace smallmind::testing {
namespace {

constexpr uint64_t kQuickSeeds = 5000;

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(SimulationTest, EverySeedKeepsEveryPromise) {
  const uint64_t only = number_from("SMALLMIND_SEED", 0);
  const uint64_t first = only > 0 ? only : 1;
  const uint64_t last = only > 0 ? only : number_from("SMALLMIND_SEEDS", kQuickSeeds);
  for (uint64_t seed = first; seed <= last; ++seed) {
    const std::string failure = World(seed).run();
    ASSERT_EQ(failure, "") << "SMALLMIND_SEED=" << seed;
  }
}

}  // namespace
}  // namespace smallmind::testing
