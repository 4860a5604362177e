// Llama and its likes (Llama 1-3, SmolLM, ...): RMS norm before each half of a layer, grouped-query
// attention with rotation of adjacent pairs, SwiGLU. Touvron et al., "LLaMA: Open and Efficient
// Foundation Language Models", 2023.
#include "model/architectures.h"

namespace smallmind {

extern const Architecture kLlama;

namespace {

Config read_config(const gguf::Header& header) {
  const ConfigReader reader(header, "llama");
  Config c = read_common_config(reader, header, "llama");
  reader.refuse_count("attention.sliding_window", 0);
  return c;
}

void bind_weights(const Config& c, WeightBinder& binder, Weights& w) {
  bind_decoder(c, binder, w);
  if (binder.has("rope_freqs.weight"))
    binder.vector("rope_freqs.weight", c.n_rot / 2, w.rope_factors);
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
    add_and_norm(part, kNoNorm, ffn_norm(layer));
    feed_forward(part, layer);
    add_and_norm(part, kNoNorm, attention_norm(part, i + 1));
  });
}

}  // namespace

const Architecture kLlama = {"llama", read_config, bind_weights, run_layer};

}  // namespace smallmind
