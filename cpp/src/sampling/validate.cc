#include <cmath>
#include <limits>
#include <string>

#include "base/number_text.h"
#include "base/utf8.h"
#include "sampling/steps.h"
#include "smallmind/error.h"
#include "smallmind/options.h"

namespace smallmind {
namespace {

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr size_t kMaxBiases = 1024;
constexpr int64_t kMaxLogprobs = 20;

[[noreturn]] void refuse(const std::string& field, const std::string& value,
                         const std::string& range) {
  throw Error(ErrorKind::kInvalidArgument, field + ": " + value + " is outside " + range);
}

void check(const RealField& field, const SamplingParams& params) {
  const double value = params.*field.member;
  const bool is_above = field.low_is_allowed ? value >= field.low : value > field.low;
  if (is_above && value <= field.high) return;  // false for NaN
  refuse(field.name, number_text(value),
         (field.low_is_allowed ? "[" : "(") + number_text(field.low) + ", " +
             number_text(field.high) + "]");
}

void check(const CountField& field, const SamplingParams& params) {
  const int64_t value = params.*field.member;
  if (value >= field.low && value <= field.high) return;
  refuse(field.name, std::to_string(value),
         "[" + std::to_string(field.low) + ", " + std::to_string(field.high) + "]");
}

void check_stops(const std::vector<std::string>& stops) {
  if (stops.size() > kMaxStops) {
    refuse("stop", std::to_string(stops.size()) + " strings",
           "at most " + std::to_string(kMaxStops));
  }
  for (size_t i = 0; i < stops.size(); ++i) {
    const std::string name = "stop[" + std::to_string(i) + "]";
    if (stops[i].empty() || stops[i].size() > kMaxStopBytes) {
      refuse(name, std::to_string(stops[i].size()) + " bytes",
             "[1, " + std::to_string(kMaxStopBytes) + "] bytes");
    }
    const size_t bad = find_invalid_utf8(stops[i]);
    if (bad != std::string::npos) {
      throw Error(ErrorKind::kInvalidArgument,
                  name + ": not valid UTF-8 at byte " + std::to_string(bad));
    }
  }
}

void check_logit_bias(const SamplingParams& params, int64_t n_vocab) {
  const auto& biases = params.logit_bias;
  if (biases.size() > kMaxBiases) {
    refuse("logit_bias", std::to_string(biases.size()) + " entries",
           "at most " + std::to_string(kMaxBiases));
  }
  for (const auto& [id, bias] : biases) {
    if (id < 0 || id >= n_vocab) {
      refuse("logit_bias: token id", std::to_string(id),
             "[0, " + std::to_string(n_vocab - 1) + "]");
    }
    // A logit is a float: a finite bias beyond its range would act as an infinite one.
    const bool is_ban = bias == -std::numeric_limits<double>::infinity();
    if (!is_ban && !(std::fabs(bias) <= 1e6)) {
      refuse("logit_bias[" + std::to_string(id) + "]", number_text(bias),
             "[-1e+06, 1e+06] and -inf");
    }
  }
}

}  // namespace

void validate(const SamplingParams& params, int64_t n_vocab) {
  if (params.max_tokens && (*params.max_tokens < 1 || *params.max_tokens > kMaxCount)) {
    refuse("max_tokens", std::to_string(*params.max_tokens),
           "[1, " + std::to_string(kMaxCount) + "]");
  }
  for_each_field([&](const auto& field) { check(field, params); });
  check_stops(params.stop);
  check_logit_bias(params, n_vocab);
  if (params.logprobs && (*params.logprobs < 0 || *params.logprobs > kMaxLogprobs)) {
    refuse("logprobs", std::to_string(*params.logprobs),
           "[0, " + std::to_string(kMaxLogprobs) + "]");
  }
}

}  // namespace smallmind
