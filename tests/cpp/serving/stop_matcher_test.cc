#include "serving/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "serving/kv_cache.h"

namespace smallmind {
namespace {

std::string random_text(std::mt19937& random, size_t max_bytes) {
  std::string text(1 + random() % max_bytes, 'a');
  for (char& c : text) c = static_cast<char>('a' + random() % 3);
  return text;
}

// against a search of every suffix after every byte.
TEST(StopMatcherTest, AgreesWithNaiveSearch) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + random() % 6);
    for (std::string& stop : stops) stop = random_text(random, 6);
    const std::string text = random_text(random, 60);
    StopMatcher matcher(stops);
    for (size_t n = 1; n <= text.size(); ++n) {
      const std::string seen = text.substr(0, n);
      size_t longest_match = 0;
      size_t longest_prefix = 0;
      for (const std::string& stop : stops) {
        if (seen.ends_with(stop)) longest_match = std::max(longest_match, stop.size());
        for (size_t k = 1; k <= std::min(stop.size(), n); ++k) {
          if (seen.ends_with(stop.substr(0, k))) longest_prefix = std::max(longest_prefix, k);
        }
      }
      ASSERT_EQ(matcher.feed(static_cast<unsigned char>(text[n - 1])), longest_match);
      ASSERT_EQ(matcher.held_bytes(), longest_prefix);
    }
  }
}

// linear, on the text that makes a naive search quadratic.
TEST(StopMatcherTest, IsLinearOnRepetitiveText) {
  std::vector<std::string> stops;
  for (size_t n = 241; n <= 256; ++n) stops.push_back(std::string(n - 1, 'a') + "b");
  StopMatcher matcher(stops);
  const auto begin = std::chrono::steady_clock::now();
  size_t n_matches = 0;
  for (int i = 0; i < 4'000'000; ++i) n_matches += matcher.feed('a') > 0 ? 1 : 0;
  EXPECT_EQ(n_matches, 0u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST(StopMatcherTest, WithoutStopsHoldsNothing) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.feed('x'), 0u);
  EXPECT_EQ(matcher.held_bytes(), 0u);
}

TEST(KvCacheTest, TakesAndReturnsPagesAsTheyAreNeeded) {
  PagePool pool(4096);
  {
    KvCache cache(pool);
    cache.reserve(33);
    EXPECT_EQ(pool.n_in_use(), 2);
    const std::vector<int32_t> ids(33, 5);
    cache.append(ids);
    for (std::byte* page : cache.pages()) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(page) % 64, 0u);
      page[4095] = std::byte{1};
    }
    std::vector<int32_t> context(40, 5);
    EXPECT_EQ(cache.common_prefix(context), 33);
    context[32] = 6;
    EXPECT_EQ(cache.common_prefix(context), 32);
    cache.truncate(32);
    EXPECT_EQ(pool.n_in_use(), 1);
    cache.truncate(1);
    EXPECT_EQ(pool.n_in_use(), 1);
    cache.truncate(0);
    EXPECT_EQ(pool.n_in_use(), 0);
    cache.reserve(64);
  }
  EXPECT_EQ(pool.n_in_use(), 0);
}

}  // namespace
}  // namespace smallmind
