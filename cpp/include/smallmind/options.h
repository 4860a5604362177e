// Plain data that users fill in, and that results come back in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace smallmind {

struct EngineOptions {
  std::string model_path;
  int n_threads = 0;           // 0: what the machine (affinity, cgroup quota) allows, at most 64
  int64_t context_length = 0;  // 0: the model's own; else 1 ... the model's own
  bool enable_kv_cache =
      true;  // false: a session keeps no KV between calls, every call computes its whole context
};

struct SessionOptions {
  std::string id;  // empty: generated, unique in the process
  int64_t max_kv_tokens =
      0;  // 0: the engine's context length; else the most tokens the session may hold
};

// Every field is checked by validate() before a request is queued; the engine loop meets only valid
// values.
struct SamplingParams {
  std::optional<int64_t>
      max_tokens;                  // >= 1; none: 512 or what the context leaves, whichever is less
  double temperature = 0.8;        // 0 ... 100; 0 is greedy
  int64_t top_k = 40;              // 0 (off) ... 2^31-1
  double top_p = 0.95;             // (0, 1]
  double min_p = 0.05;             // [0, 1]
  double repeat_penalty = 1.0;     // (0, 100]
  int64_t repeat_last_n = 64;      // the window of all three penalties, tokens; 0 (off) ... 2^31-1
  double presence_penalty = 0.0;   // [-100, 100]
  double frequency_penalty = 0.0;  // [-100, 100]
  std::vector<std::string> stop;   // at most 16, each 1 ... 256 bytes
  bool ignore_eos = false;
  std::vector<std::pair<int64_t, double>> logit_bias;  // at most 1,024; -inf bans a token
  std::optional<int64_t> logprobs;                     // 0 ... 20 alternatives for each token
  std::optional<uint64_t> seed;  // none: drawn from the system, returned in the result
};

// Throws Error(kInvalidArgument) whose message names the field, the value and the range.
void validate(const SamplingParams& params, int64_t n_vocab);

struct TokenLogprob {
  int32_t id = 0;
  std::string text;
  double logprob =
      0;  // natural log, of the raw distribution (before temperature, bias and truncation)
  std::vector<std::pair<int32_t, double>>
      top;  // (id, logprob), most likely first, ties by lower id
};

struct Token {
  int32_t id = 0;
  int64_t index = 0;  // 0 for the first generated token
  std::string text;   // valid UTF-8, may be empty
  std::optional<TokenLogprob> logprob;
};

enum class FinishReason : unsigned char { kStop, kLength, kCancelled, kTimeout };

struct Usage {
  int64_t prompt_tokens = 0;  // the whole context before generation, history included
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // of prompt_tokens, those whose KV was reused
  int64_t max_tokens = 0;     // the limit that applied, given or derived
};

struct Timings {             // seconds
  double queue_s = 0;        // submit to first step
  double prefill_s = 0;      // first step to first token
  double first_token_s = 0;  // submit to first token
  double decode_s = 0;       // first token to end
};

struct GenerationResult {
  std::string text;
  std::vector<int32_t> token_ids;
  FinishReason finish_reason = FinishReason::kStop;
  Usage usage;
  Timings timings;
  std::vector<TokenLogprob> logprobs;  // one a token where asked for, else empty
  uint64_t seed = 0;
};

}  // namespace smallmind
