// Gemma 3: norms before and after each half of a layer, norms of single query and key heads,
// rotation of halves, five layers with a sliding window to one without, GELU. Gemma Team, "Gemma 3
// Technical Report", 2025.
#include <cmath>

#include "model/architectures.h"
#include "smallmind/error.h"

namespace smallmind {

extern const Architecture kGemma3;

namespace {

constexpr size_t kLayersOfAPattern = 6;  // the last of them sees everything
constexpr float kWindowRopeBase = 10'000;
constexpr size_t kLayersOf27B = 62;  // that model scales scores by its embedding's share of a head

// Every sixth layer sees everything, unless the file says for each layer whether it has a window.
std::vector<bool> read_windowed(const ConfigReader& reader, size_t n_layers) {
  const std::string key = reader.key("attention.sliding_window_pattern");
  const auto pattern = reader.metadata().find_bool_array(key);
  if (pattern && pattern->size() != n_layers)
    throw Error(ErrorKind::kModelFormat, "key '" + key + "': has " +
                                             std::to_string(pattern->size()) + " elements for " +
                                             std::to_string(n_layers) + " layers");
  std::vector<bool> windowed(n_layers);
  for (size_t i = 0; i < n_layers; ++i)
    windowed[i] = pattern ? (*pattern)[i] != 0 : i % kLayersOfAPattern != kLayersOfAPattern - 1;
  return windowed;
}

Config read_config(const gguf::Header& header) {
  const ConfigReader reader(header, "gemma3");
  Config c = read_common_config(reader, header, "gemma3");
  c.rope = Rope::kHalves;
  if (!header.metadata.has(reader.key("rope.freq_base"))) c.rope_base = 1'000'000;
  c.rope_base_window = reader.positive_or("rope.freq_base_swa", kWindowRopeBase);
  c.window = reader.count("attention.sliding_window", c.context_length);
  c.windowed = read_windowed(reader, c.n_layers);
  c.activation = Activation::kGeluTanh;
  c.embedding_scale = std::sqrt(static_cast<float>(c.n_embd));
  if (c.n_layers == kLayersOf27B)
    c.attention_scale =
        1.0f / std::sqrt(static_cast<float>(c.n_embd) / static_cast<float>(c.n_heads));
  c.attention_softcap = reader.cap_or_none("attn_logit_softcapping");
  c.logit_softcap = reader.cap_or_none("final_logit_softcapping");
  return c;
}

void bind_weights(const Config& c, WeightBinder& binder, Weights& w) {
  bind_decoder(c, binder, w);
  for (size_t i = 0; i < c.n_layers; ++i) {
    LayerWeights& l = w.layers[i];
    binder.vector(layer_tensor(i, "attn_q_norm"), c.head_dim, l.query_norm);
    binder.vector(layer_tensor(i, "attn_k_norm"), c.head_dim, l.key_norm);
    binder.vector(layer_tensor(i, "post_attention_norm"), c.n_embd, l.post_attention_norm);
    binder.vector(layer_tensor(i, "post_ffw_norm"), c.n_embd, l.post_ffn_norm);
  }
}

void run_layer(const Step& step, size_t i) {
  const LayerWeights& layer = step.weights.layers[i];
  in_parts(step, [&](const Step& part) {
    project_qkv(part, layer);
    rotate_and_store(part, layer, i);
  });
  if (!attention(step, i)) return;
  in_parts(step, [&](const Step& part) {
    project_out(part, layer);
    add_and_norm(part, layer.post_attention_norm, ffn_norm(layer));
    feed_forward(part, layer);
    add_and_norm(part, layer.post_ffn_norm, attention_norm(part, i + 1));
  });
}

}  // namespace

const Architecture kGemma3 = {"gemma3", read_config, bind_weights, run_layer};

}  // namespace smallmind
