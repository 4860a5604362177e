// The steps against naive double arithmetic on fully sorted rows.
#include "sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "base/counter_rng.h"
#include "sampling/steps.h"
#include "sampling/token_counts.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_row(std::mt19937& random, size_t n) {
  std::vector<float> row(n);
  const unsigned kind = random() % 4;
  for (float& logit : row) {
    if (kind == 0) logit = static_cast<float>(random() % 5);  // many ties
    if (kind == 1) logit = 1.5F;                              // all equal
    if (kind > 1) logit = static_cast<float>(random() % 20'000) / 1e3F;
  }
  row[random() % n] = 20.0F;
  return row;
}

std::vector<Candidate> sorted(const std::vector<float>& row) {
  std::vector<Candidate> all;
  for (size_t i = 0; i < row.size(); ++i) all.push_back({row[i], static_cast<int32_t>(i)});
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  return all;
}

// The same choice, spelled out: every probability, every sum, in rank order.
int32_t naive_choice(std::vector<float> row, const SamplingParams& params,
                     const std::vector<int32_t>& context, double uniform) {
  for (const auto& [id, bias] : params.logit_bias) {
    row[static_cast<size_t>(id)] = static_cast<float>(row[static_cast<size_t>(id)] + bias);
  }
  std::map<int32_t, int> counts;
  const size_t window = static_cast<size_t>(params.repeat_last_n);
  for (size_t i = context.size() > window ? context.size() - window : 0; i < context.size(); ++i) {
    ++counts[context[i]];
  }
  for (const auto& [id, count] : counts) {
    double logit = row[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / params.repeat_penalty : logit * params.repeat_penalty;
    logit -= params.presence_penalty + params.frequency_penalty * count;
    row[static_cast<size_t>(id)] = static_cast<float>(logit);
  }
  std::vector<Candidate> all = sorted(row);
  if (params.temperature == 0) return all[0].id;
  const double best = all[0].logit;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < all.size()) {
    all.resize(static_cast<size_t>(params.top_k));
  }
  double mass = 0;
  for (const Candidate& each : all) mass += std::exp(each.logit - best);
  double reached = 0;
  for (size_t i = 0; i < all.size() && params.top_p < 1; ++i) {
    reached += std::exp(all[i].logit - best);
    if (reached >= params.top_p * mass) all.resize(i + 1);
  }
  if (params.min_p > 0) {
    while (all.size() > 1 && all.back().logit < best + std::log(params.min_p)) all.pop_back();
  }
  mass = 0;
  for (const Candidate& each : all) mass += std::exp((each.logit - best) / params.temperature);
  reached = 0;
  for (const Candidate& each : all) {
    reached += std::exp((each.logit - best) / params.temperature);
    if (reached > uniform * mass) return each.id;
  }
  return all.back().id;
}

// G-67: ties, equal rows and banned tokens included. The two differ only where a sum falls within
// rounding of a bound, which none of these seeds does but for a handful at most.
TEST(SamplerTest, AgreesWithNaiveArithmetic) {
  std::mt19937 random(7);
  SamplerScratch scratch;
  int n_different = 0;
  for (int round = 0; round < 4000; ++round) {
    const size_t n = 1 + random() % (round % 10 == 0 ? 5000 : 300);
    const std::vector<float> row = random_row(random, n);
    SamplingParams params;
    params.temperature = random() % 5 == 0 ? 0 : 0.1 * (1 + random() % 30);
    params.top_k = random() % 3 == 0 ? 0 : random() % 100;
    params.top_p = random() % 3 == 0 ? 1 : 0.01 * (1 + random() % 100);
    params.min_p = random() % 3 == 0 ? 0 : 0.01 * (random() % 101);
    params.repeat_last_n = random() % 30;
    params.repeat_penalty = random() % 2 == 0 ? 1 : 1.3;
    params.presence_penalty = random() % 2 == 0 ? 0 : 0.5;
    params.frequency_penalty = random() % 2 == 0 ? 0 : -0.25;
    for (size_t i = 0; i < random() % 8; ++i) {
      const double bias = random() % 2 == 0 ? 2.5 : -static_cast<double>(kInfinity);
      params.logit_bias.emplace_back(static_cast<int64_t>(random() % n), bias);
    }
    if (n < 8) params.logit_bias.clear();  // a token must be left
    std::vector<int32_t> context(random() % 50);
    for (int32_t& id : context) id = static_cast<int32_t>(random() % n);
    const uint64_t seed = random();
    Sampler sampler(params, seed, {});
    std::vector<float> changed = row;
    const int32_t chosen = sampler.choose(changed, context, scratch).id;
    const int32_t expected =
        naive_choice(row, params, context, counter_uniform(seed, context.size()));
    if (params.temperature == 0) {
      ASSERT_EQ(chosen, expected);
    }
    n_different += chosen == expected ? 0 : 1;
  }
  EXPECT_LE(n_different, 4);
}

TEST(SamplerTest, RanksAreTheFullSortWhateverIsAsked) {
  std::mt19937 random(2);
  Candidates candidates;
  for (size_t n : {1, 2, 255, 256, 257, 3000, 70'000}) {
    const std::vector<float> row = random_row(random, n);
    const std::vector<Candidate> expected = sorted(row);
    candidates.reset(row);
    for (size_t rank : {size_t{0}, n / 100, n / 3, n - 1, n / 2}) {
      EXPECT_EQ(candidates.ranked(rank).id, expected[rank].id) << n << " " << rank;
    }
  }
}

// The first ranks decide as the whole row does; where they cannot, nothing is promised.
TEST(SamplerTest, ChoosesFromTheDecidingRanksAsFromTheWholeRow) {
  std::mt19937 random(11);
  SamplerScratch scratch;
  int n_decided = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<float> row = random_row(random, 200 + random() % 3000);
    SamplingParams params;
    params.temperature = random() % 3 == 0 ? 0 : 0.1 * (1 + random() % 30);
    params.top_k = random() % 4 == 0 ? 0 : 1 + random() % 60;
    params.top_p = random() % 3 == 0 ? 1 : 0.01 * (1 + random() % 100);
    params.min_p = random() % 3 == 0 ? 0 : 0.01 * (random() % 101);
    if (random() % 8 == 0) params.logprobs = 2;
    if (random() % 8 == 0) params.repeat_penalty = 1.2;
    if (random() % 8 == 0) params.logit_bias.emplace_back(3, 1.0);
    const std::vector<Candidate> all = sorted(row);
    std::vector<int32_t> banned;
    for (size_t i = random() % 4; i > 0; --i) banned.push_back(all[random() % 5].id);
    const std::vector<int32_t> context(random() % 50, 1);
    Sampler sampler(params, random(), banned);
    const size_t n = sampler.n_deciding();
    const bool is_narrow = params.temperature == 0 || params.top_k > 0;
    const bool is_raw = !params.logprobs && params.repeat_penalty == 1 && params.logit_bias.empty();
    ASSERT_EQ(n > 0, is_narrow && is_raw);
    if (n == 0) continue;
    const auto ranks = std::span(all).first(n + random() % 3);
    const int32_t chosen = sampler.choose(ranks, context, scratch).id;
    ASSERT_EQ(chosen, sampler.choose(row, context, scratch).id);
    ++n_decided;
  }
  EXPECT_GT(n_decided, 1000);
}

// Penalties count a window that slides as the context grows.
TEST(SamplerTest, PenaltyWindowSlides) {
  std::mt19937 random(4);
  SamplerScratch scratch;
  SamplingParams params;
  params.temperature = 0;
  params.repeat_last_n = 5;
  params.repeat_penalty = 2;
  params.frequency_penalty = 0.7;
  Sampler sampler(params, 1, {});
  std::vector<int32_t> context = {1, 2, 3};
  for (int i = 0; i < 200; ++i) {
    std::vector<float> row(12);
    for (float& logit : row) logit = static_cast<float>(random() % 1000) / 100.0F;
    const int32_t expected = naive_choice(row, params, context, 0);
    ASSERT_EQ(sampler.choose(row, context, scratch).id, expected);
    for (unsigned k = 0; k <= random() % 3; ++k) {
      context.push_back(static_cast<int32_t>(random() % 12));
    }
  }
}

// A17: shares over many draws are the probabilities.
TEST(SamplerTest, DrawsByProbability) {
  SamplingParams params;
  params.temperature = 1;
  params.top_k = 0;
  params.top_p = 1;
  params.min_p = 0;
  Sampler sampler(params, 42, {});
  SamplerScratch scratch;
  std::vector<int> counts(4);
  std::vector<int32_t> context;
  for (int i = 0; i < 40'000; ++i) {
    std::vector<float> row = {std::log(0.1F), std::log(0.2F), std::log(0.3F), std::log(0.4F)};
    ++counts[static_cast<size_t>(sampler.choose(row, context, scratch).id)];
    context.push_back(0);
  }
  for (size_t id = 0; id < 4; ++id) {
    EXPECT_NEAR(counts[id] / 40'000.0, 0.1 * static_cast<double>(id + 1), 0.01);
  }
}

// G-65, G-67.
TEST(SamplerTest, RefusesRowsThatHaveNoOrder) {
  SamplerScratch scratch;
  for (double temperature : {0.0, 0.8}) {
    SamplingParams params;
    params.temperature = temperature;
    for (float bad : {std::nanf(""), kInfinity, -kInfinity}) {
      std::vector<float> row(50, 1.0F);
      row[17] = bad;
      Sampler sampler(params, 1, {});
      try {
        sampler.choose(row, {}, scratch);
        ADD_FAILURE() << "accepted " << bad;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), "NON_FINITE_LOGITS");
      }
    }
    const std::vector<int32_t> all = {0, 1, 2};
    std::vector<float> row(3, 1.0F);
    Sampler sampler(params, 1, all);
    try {
      sampler.choose(row, {}, scratch);
      ADD_FAILURE() << "chose a banned token";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "NO_TOKEN_LEFT");
    }
  }
}

TEST(SamplerTest, ExtremeTemperaturesStayInRange) {
  SamplerScratch scratch;
  for (double temperature : {5e-324, 1e-45, 1e-9, 100.0}) {
    SamplingParams params;
    params.temperature = temperature;
    params.min_p = 1e-320;
    Sampler sampler(params, 3, {});
    std::vector<float> row = {1, 5, 5, 2};
    const int32_t id = sampler.choose(row, {}, scratch).id;
    EXPECT_TRUE(temperature == 100.0 ? id >= 0 && id < 4 : id == 1 || id == 2);
  }
}

// Every option of every step is refused just outside its range and taken at its ends.
TEST(StepsTest, FieldsAreChecked) {
  int n_fields = 0;
  for_each_field([&](const auto& field) {
    ++n_fields;
    SamplingParams params;
    params.*field.member = field.high;
    EXPECT_NO_THROW(validate(params, 10)) << field.name;
    params.*field.member = field.high + 1;
    EXPECT_THROW(validate(params, 10), Error) << field.name;
    params.*field.member = field.low - 1;
    try {
      validate(params, 10);
      ADD_FAILURE() << field.name;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find(field.name), 0u);
    }
  });
  EXPECT_EQ(n_fields, 8);
}

// The published known-answer vectors of Philox4x32-10.
TEST(CounterRngTest, MatchesThePublishedVectors) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Against std::map, over random windows; small tables collide and close gaps all the time.
TEST(TokenCountsTest, CountsLikeAMap) {
  std::mt19937 random(9);
  for (const size_t reserved : {0, 4, 64}) {
    TokenCounts counts(reserved);
    std::map<int32_t, int64_t> expected;
    std::vector<int32_t> window;
    for (int i = 0; i < 20'000; ++i) {
      const auto id = static_cast<int32_t>(random() % 40 * 4096);
      counts.add(id);
      ++expected[id];
      window.push_back(id);
      if (window.size() > 24) {
        const int32_t oldest = window[window.size() - 25];
        counts.remove(oldest);
        if (--expected[oldest] == 0) expected.erase(oldest);
      }
      std::map<int32_t, int64_t> found;
      counts.for_each([&](int32_t each, int64_t n) { found[each] = n; });
      ASSERT_EQ(found, expected);
    }
  }
}

}  // namespace
}  // namespace smallmind
