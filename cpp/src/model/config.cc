#include "model/config.h"

#include <cmath>
#include <utility>

#include "base/number_text.h"
#include "base/utf8.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr size_t kMaxWidth = 1 << 20;
constexpr size_t kMaxContext = 1 << 24;

[[noreturn]] void bad_value(const std::string& key, const std::string& value,
                            const std::string& wants) {
  throw Error(ErrorKind::kModelFormat,
              "key '" + escape(key) + "': " + value + " is out of range; wants " + wants);
}

void require(bool ok, const ConfigReader& reader, const char* name, size_t value,
             const std::string& wants) {
  if (!ok) bad_value(reader.key(name), std::to_string(value), wants);
}

}  // namespace

ConfigReader::ConfigReader(const gguf::Header& header, std::string architecture)
    : header_(header), architecture_(std::move(architecture)) {}

std::string ConfigReader::key(const char* name) const { return architecture_ + "." + name; }

size_t ConfigReader::count(const char* name, size_t max) const {
  const size_t value = header_.metadata.require_u32(key(name));
  if (value < 1 || value > max)
    bad_value(key(name), std::to_string(value), "1 ... " + std::to_string(max));
  return value;
}

size_t ConfigReader::count_or(const char* name, size_t max, size_t fallback) const {
  return header_.metadata.has(key(name)) ? count(name, max) : fallback;
}

float ConfigReader::positive(const char* name) const {
  const float value = header_.metadata.require_f32(key(name));
  if (!(value > 0 && value <= 1e12f))
    bad_value(key(name), number_text(value), "a number above 0 and at most 1e12");
  return value;
}

float ConfigReader::positive_or(const char* name, float fallback) const {
  return header_.metadata.has(key(name)) ? positive(name) : fallback;
}

float ConfigReader::cap_or_none(const char* name) const {
  const auto value = header_.metadata.find_f32(key(name));
  return !value || *value == 0 ? 0.0f : positive(name);
}

void ConfigReader::refuse_count(const char* name, uint32_t neutral) const {
  const auto value = header_.metadata.find_u32(key(name));
  if (value && *value != neutral)
    throw Error(ErrorKind::kUnsupportedModel,
                "key '" + escape(key(name)) + "': " + std::to_string(*value) + " is not supported");
}

namespace {

void read_heads(const ConfigReader& reader, Config& c) {
  c.n_heads = reader.count("attention.head_count", kMaxWidth);
  c.n_kv_heads = reader.count_or("attention.head_count_kv", kMaxWidth, c.n_heads);
  require(c.n_kv_heads <= c.n_heads && c.n_heads % c.n_kv_heads == 0, reader,
          "attention.head_count_kv", c.n_kv_heads,
          "a divisor of the " + std::to_string(c.n_heads) + " heads");
  const bool explicit_dim = reader.metadata().has(reader.key("attention.key_length"));
  if (!explicit_dim)
    require(c.n_embd % c.n_heads == 0, reader, "attention.head_count", c.n_heads,
            "a divisor of the embedding length " + std::to_string(c.n_embd));
  c.head_dim = reader.count_or("attention.key_length", kMaxWidth, c.n_embd / c.n_heads);
  const size_t value_dim = reader.count_or("attention.value_length", kMaxWidth, c.head_dim);
  require(value_dim == c.head_dim, reader, "attention.value_length", value_dim,
          "the key length " + std::to_string(c.head_dim));
  if (c.head_dim % 16 != 0 || c.head_dim > kMaxHeadDim)
    throw Error(ErrorKind::kModelFormat, "key '" + escape(reader.key("attention.key_length")) +
                                             "': heads of " + std::to_string(c.head_dim) +
                                             " elements; wants a multiple of 16, at most " +
                                             std::to_string(kMaxHeadDim));
  require(c.n_queries() <= kMaxWidth, reader, "attention.head_count", c.n_heads,
          "heads that are " + std::to_string(kMaxWidth) + " wide at most");
}

void read_rope(const ConfigReader& reader, Config& c) {
  c.n_rot = reader.count_or("rope.dimension_count", kMaxWidth, c.head_dim);
  require(c.n_rot % 2 == 0 && c.n_rot <= c.head_dim, reader, "rope.dimension_count", c.n_rot,
          "an even number, at most the head's " + std::to_string(c.head_dim));
  c.rope_base = reader.positive_or("rope.freq_base", 10'000.0f);
  const auto type = reader.metadata().find_string(reader.key("rope.scaling.type"));
  if (!type || *type == "none") return;
  if (*type != "linear")
    throw Error(ErrorKind::kUnsupportedModel, "key '" + escape(reader.key("rope.scaling.type")) +
                                                  "': '" + escape(*type) + "' is not supported");
  c.rope_scale = 1.0f / reader.positive("rope.scaling.factor");
}

}  // namespace

Config read_common_config(const ConfigReader& reader, const gguf::Header& header,
                          std::string architecture) {
  Config c;
  c.architecture = std::move(architecture);
  const size_t n_layers = header.metadata.require_u32(reader.key("block_count"));
  if (n_layers > gguf::kMaxLayers)
    throw Error(ErrorKind::kModelLimit,
                "key '" + escape(reader.key("block_count")) + "': " + std::to_string(n_layers) +
                    " layers; the limit is " + std::to_string(gguf::kMaxLayers));
  c.n_layers = reader.count("block_count", gguf::kMaxLayers);
  c.n_embd = reader.count("embedding_length", kMaxWidth);
  c.n_ff = reader.count("feed_forward_length", kMaxWidth);
  c.context_length = reader.count("context_length", kMaxContext);
  c.norm_eps = reader.positive("attention.layer_norm_rms_epsilon");
  if (c.norm_eps > 1.0f)
    bad_value(reader.key("attention.layer_norm_rms_epsilon"), number_text(c.norm_eps), "at most 1");
  read_heads(reader, c);
  read_rope(reader, c);
  for (const char* name : {"expert_count", "expert_used_count"}) reader.refuse_count(name, 0);
  c.windowed.assign(c.n_layers, false);
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  return c;
}

}  // namespace smallmind
