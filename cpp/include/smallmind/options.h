// Plain data that users fill in, and that results come back in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace smallmind {

// How keys and values are stored: rounded to bfloat16, or in blocks of 32 codes of eight bits with
// a scale, which takes 0.53 of the memory.
enum class CacheType : unsigned char { kBf16, kQ8_0 };

// What a stream does whose reader is max_buffered_tokens behind: the generation waits for the
// reader, or it fails with kBufferFull.
enum class OnFull : unsigned char { kPause, kError };

struct EngineOptions {
  std::string model_path;
  int n_threads = 0;           // 0: what the machine (affinity, cgroup quota) allows, at most 64
  int64_t context_length = 0;  // 0: the model's own or what kv_limit holds; else 1 ... the model's
  // false: no KV outlives its request; every call computes its whole context, nothing is shared.
  bool enable_kv_cache = true;
  CacheType cache_type = CacheType::kBf16;
  uint64_t kv_limit = 0;        // bytes of KV pages; 0: half of the memory that is free after load
  int64_t max_kv_tokens = 0;    // the most tokens a session may hold; 0: the context length
  int64_t max_queue_depth = 0;  // requests that wait for their first step; 0: no limit
  int64_t max_buffered_tokens = 256;  // of a stream; 1 ... 65,536
  OnFull on_full = OnFull::kPause;
  double request_timeout_s = 0;  // of every request, from its call; 0: none
};

struct SessionOptions {
  std::string id;             // empty: generated, unique in the process
  int64_t max_kv_tokens = 0;  // 0: the engine's; else at most that
  // Sessions share the KV of equal prefixes only with sessions of the same salt. At most 256 bytes.
  std::string cache_salt;
  // Sessions of one key share one turn: the engine divides its time between the keys that wait. At
  // most 256 bytes.
  std::string fairness_key;
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
  std::string session_id;
};

}  // namespace smallmind
