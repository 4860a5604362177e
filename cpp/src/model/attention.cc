// The attention half of the blocks: keys and values into the pages, and what the queries get out.
#include <algorithm>

#include "model/blocks.h"

namespace smallmind {

void rotate_and_store(const Step& step, const LayerWeights& layer, size_t i_layer) {
  const Config& c = step.config;
  const bool windowed = c.windowed[i_layer];
  const RopeTable& rope = windowed && c.rope_base_window > 0 ? step.ws.rope_window : step.ws.rope;
  const size_t half = c.n_rot / 2, d = c.head_dim, region = step.kv.region_bytes;
  const auto group = static_cast<size_t>(step.kv.layers[i_layer].group);
  const Kernels& kernel = kernels();
  for_each_token(step, [&](size_t t) {
    const StepToken& token = step.ws.tokens[t];
    const float* cos = rope.cos.data() + t * half;
    const float* sin = rope.sin.data() + t * half;
    float* q = step.ws.q.data() + t * c.n_queries();
    float* k = step.ws.k.data() + t * c.n_keys();
    const float* v = step.ws.v.data() + t * c.n_keys();
    for (size_t h = 0; h < c.n_heads; ++h) {
      if (!layer.query_norm.empty())
        kernel.rms_norm(q + h * d, layer.query_norm.data(), d, c.norm_eps, q + h * d);
      kernel.rope(c.rope, q + h * d, c.n_rot, cos, sin);
    }
    kernel.round_bf16(q, c.n_queries());
    const auto slot = static_cast<size_t>(token.position % kPageTokens);
    std::byte* page = token.pages[group][token.position / kPageTokens];
    for (size_t h = 0; h < c.n_kv_heads; ++h) {
      if (!layer.key_norm.empty())
        kernel.rms_norm(k + h * d, layer.key_norm.data(), d, c.norm_eps, k + h * d);
      kernel.rope(c.rope, k + h * d, c.n_rot, cos, sin);
      std::byte* keys = page + step.kv.keys_offset(i_layer, h);
      kernel.store_kv(k + h * d, v + h * d, d, slot, token.last_of_slice, keys, keys + region);
    }
  });
}

namespace {

// Tokens [first, first + n) of one sequence, n small, and one kv head.
void attend_tokens(const Step& step, size_t i_layer, size_t kv_head, size_t first, size_t n) {
  const Config& c = step.config;
  const size_t group = c.n_heads / c.n_kv_heads, d = c.head_dim;
  AttentionTile tile;
  tile.pages = step.ws.tokens[first].pages[static_cast<size_t>(step.kv.layers[i_layer].group)];
  tile.k_offset = step.kv.keys_offset(i_layer, kv_head);
  tile.v_offset = tile.k_offset + step.kv.region_bytes;
  tile.head_dim = d;
  tile.scale = c.attention_scale;
  tile.softcap = c.attention_softcap;
  for (size_t i = 0; i < n * group; ++i) {
    const size_t t = first + i / group, head = kv_head * group + i % group;
    const int64_t end = step.ws.tokens[t].position + 1;
    const auto window = static_cast<int64_t>(c.windowed[i_layer] ? c.window : 0);
    tile.queries[tile.n_queries] = step.ws.q.data() + t * c.n_queries() + head * d;
    tile.out[tile.n_queries] = step.ws.attended.row(t) + head * d;
    tile.begin[tile.n_queries] = window > 0 && end > window ? end - window : 0;
    tile.end[tile.n_queries] = end;
    if (++tile.n_queries == kMaxTileQueries || i + 1 == n * group) {
      kernels().attention(tile);
      tile.n_queries = 0;
    }
  }
}

// Whether token t goes on the sequence of token t - 1.
bool continues(const Step& step, size_t t) { return t > 0 && !step.ws.tokens[t - 1].last_of_slice; }

}  // namespace

void attention(const Step& step, size_t i_layer) {
  const Config& c = step.config;
  constexpr size_t kTokensAnItem = 4;
  const size_t n_groups = (step.n_tokens() + kTokensAnItem - 1) / kTokensAnItem;
  step.gang.for_each(n_groups * c.n_kv_heads, [&](size_t item, int) {
    // Late tokens see the most keys: they go first, so that the last items are short.
    const size_t group = n_groups - 1 - item / c.n_kv_heads, kv_head = item % c.n_kv_heads;
    const size_t end = std::min(step.n_tokens(), (group + 1) * kTokensAnItem);
    for (size_t first = group * kTokensAnItem; first < end;) {
      size_t last = first + 1;
      while (last < end && continues(step, last)) ++last;
      attend_tokens(step, i_layer, kv_head, first, last - first);
      first = last;
    }
  });
  if (c.n_queries() % 32 == 0)
    for_each_token(step, [&](size_t t) { kernels().quantize(step.ws.attended.view(), t, 1); });
}

}  // namespace smallmind
