// What a graph needs to know besides its weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/reader.h"
#include "kernels/kernels.h"

namespace smallmind {

// Immutable after load. Every number has been checked against its range and against the others.
struct Config {
  std::string architecture;
  size_t n_layers = 0;
  size_t n_embd = 0;
  size_t n_heads = 0;
  size_t n_kv_heads = 0;
  size_t head_dim = 0;  // of queries, keys and values
  size_t n_ff = 0;
  size_t n_vocab = 0;
  size_t context_length = 0;
  float norm_eps = 0;

  size_t n_rot = 0;  // elements of a head that rotary embedding turns
  Rope rope = Rope::kAdjacent;
  float rope_base = 10'000;
  float rope_scale = 1;        // positions are multiplied by this
  float rope_base_window = 0;  // of layers with a window; never scaled
  size_t window = 0;  // keys that a windowed layer sees, its own included; 0: no layer has one
  std::vector<bool> windowed;  // per layer

  Activation activation = Activation::kSilu;
  float embedding_scale = 1;
  float attention_scale = 1;
  float attention_softcap = 0;  // 0: none
  float logit_softcap = 0;      // 0: none

  size_t n_queries() const { return n_heads * head_dim; }
  size_t n_keys() const { return n_kv_heads * head_dim; }
};

// Reads "<architecture>.<name>" keys; each accessor checks the range and throws Error(kModelFormat,
// kModelLimit) naming key and value.
class ConfigReader {
 public:
  ConfigReader(const gguf::Header& header, std::string architecture);

  std::string key(const char* name) const;
  size_t count(const char* name, size_t max) const;                      // required, 1 ... max
  size_t count_or(const char* name, size_t max, size_t fallback) const;  // absent: fallback
  float positive(const char* name) const;  // required, finite, > 0, <= 1e12
  float positive_or(const char* name, float fallback) const;
  float cap_or_none(const char* name) const;  // absent or 0: 0; else > 0
  // Throws Error(kUnsupportedModel) when the key is present with another value than `neutral`.
  void refuse_count(const char* name, uint32_t neutral) const;
  const gguf::Metadata& metadata() const { return header_.metadata; }

 private:
  const gguf::Header& header_;
  std::string architecture_;
};

// The part that all decoder families share: sizes, heads, context, rotary base and linear scaling.
Config read_common_config(const ConfigReader& reader, const gguf::Header& header,
                          std::string architecture);

}  // namespace smallmind
