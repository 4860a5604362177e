// The attention half of the blocks: keys and values into the pages, and what the queries get out.
#include <algorithm>

#include "model/blocks.h"
#include "quant/panel.h"

namespace smallmind {

AttentionShape attention_shape(const Step& step, PageGroup group) {
  const Config& c = step.config;
  AttentionShape shape;
  shape.queries_of_a_kv_head = c.n_heads / c.n_kv_heads;
  shape.n_kv_heads = c.n_kv_heads;
  shape.window = group == PageGroup::kWindow ? static_cast<int64_t>(c.window) : 0;
  shape.n_threads = step.gang.n_threads();
  shape.max_parts = kAttentionPartFloats / part_floats(c.head_dim);
  return shape;
}

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
      kernel.store_kv(step.kv.format, k + h * d, v + h * d, d, slot, token.last_of_slice, keys,
                      keys + region);
    }
  });
}

namespace {

AttentionTile tile_of(const Step& step, size_t i_layer, size_t kv_head, size_t first_token) {
  const KvLayout& kv = step.kv;
  AttentionTile tile;
  tile.format = kv.format;
  tile.pages = step.ws.tokens[first_token].pages[static_cast<size_t>(kv.layers[i_layer].group)];
  tile.k_offset = kv.keys_offset(i_layer, kv_head);
  tile.v_offset = tile.k_offset + kv.region_bytes;
  tile.head_dim = step.config.head_dim;
  tile.scale = step.config.attention_scale;
  tile.softcap = step.config.attention_softcap;
  return tile;
}

// Whether what the heads of a kv head give is whole blocks of the next product's inputs.
bool gives_whole_blocks(const Config& c) {
  return c.n_heads / c.n_kv_heads * c.head_dim % quant::kBlockColumns == 0;
}

// Where the first part of a head's query goes.
float* parts_of(const Step& step, TokenParts parts, size_t head) {
  return step.ws.attention_parts.data() +
         (parts.first + head * parts.n_parts) * part_floats(step.config.head_dim);
}

// Sets what is fetched towards the end of a tile: where an item begins.
void fetch_after(const Step& step, size_t i_layer, const AttentionShape& shape,
                 const AttentionItem& item, size_t kv_head, AttentionTile& tile) {
  const auto group = static_cast<size_t>(step.kv.layers[i_layer].group);
  const StepToken& token = step.ws.tokens[item.first_token];
  const int64_t piece = item.in_parts ? item.first_piece : shape.first_piece(token.position);
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t page = std::clamp(2 * piece + i, shape.first_key(token.position) / kPageTokens,
                                    token.position / kPageTokens);
    tile.after[i] = token.pages[group][page] + step.kv.keys_offset(i_layer, kv_head);
  }
}

// An item of one kv head; the one that follows, if any, is fetched meanwhile. With fewer tokens
// than threads all take from one list, and the one that follows is another thread's.
void attend(const Step& step, size_t i_layer, std::span<const AttentionItem> items, size_t i_item) {
  const Config& c = step.config;
  const AttentionPlan& plan =
      step.ws.attention_plans[static_cast<size_t>(step.kv.layers[i_layer].group)];
  const AttentionItem& item = items[i_item % items.size()];
  const size_t kv_head = i_item / items.size(), next = i_item + 1;
  const size_t shared = c.n_heads / c.n_kv_heads, d = c.head_dim;
  const AttentionShape shape = attention_shape(step, step.kv.layers[i_layer].group);
  AttentionTile tile = tile_of(step, i_layer, kv_head, item.first_token);
  tile.in_parts = item.in_parts;
  tile.first_piece = item.first_piece;
  tile.n_pieces = item.n_pieces;
  for (size_t i = 0; i < item.n_tokens * shared; ++i) {
    const size_t t = item.first_token + i / shared, head = kv_head * shared + i % shared;
    const int64_t position = step.ws.tokens[t].position, begin = shape.first_key(position);
    const auto skipped = static_cast<size_t>(item.first_piece - shape.first_piece(position));
    tile.queries[tile.n_queries] = step.ws.q.data() + t * c.n_queries() + head * d;
    tile.out[tile.n_queries] = item.in_parts
                                   ? parts_of(step, plan.parts(t), head) + skipped * part_floats(d)
                                   : step.ws.attended.row(t) + head * d;
    tile.begin[tile.n_queries] = begin;
    tile.end[tile.n_queries] = position + 1;
    if (++tile.n_queries == kMaxTileQueries || i + 1 == item.n_tokens * shared) {
      if (i + 1 == item.n_tokens * shared && next < items.size() * c.n_kv_heads &&
          step.n_tokens() >= static_cast<size_t>(step.gang.n_threads()))
        fetch_after(step, i_layer, shape, items[next % items.size()], next / items.size(), tile);
      kernels().attention(tile);
      tile.n_queries = 0;
    }
  }
  if (item.in_parts || !gives_whole_blocks(c)) return;
  const size_t n_blocks = shared * d / quant::kBlockColumns;
  for (size_t t = item.first_token; t < item.first_token + item.n_tokens; ++t)
    kernels().quantize_blocks(step.ws.attended.view(), t, kv_head * n_blocks, n_blocks);
}

// What attend() leaves over: folds the parts of a token and quantises what it could not.
void finish_token(const Step& step, TokenParts parts, size_t t) {
  const Config& c = step.config;
  for (size_t head = 0; parts.n_parts > 0 && head < c.n_heads; ++head)
    kernels().fold_parts(parts_of(step, parts, head), parts.n_parts, c.head_dim,
                         step.ws.attended.row(t) + head * c.head_dim);
  const bool is_quantised = parts.n_parts == 0 && gives_whole_blocks(c);
  if (!is_quantised && c.n_queries() % quant::kBlockColumns == 0)
    kernels().quantize(step.ws.attended.view(), t, 1);
}

// Leaves of the tokens, their hidden states and their queries only those of the outputs.
void keep_outputs(const Step& step, size_t i_layer) {
  const Config& c = step.config;
  DecoderWorkspace& ws = step.ws;
  size_t n = 0;
  for (size_t t = 0; t < ws.tokens.size(); ++t) {
    if (!ws.tokens[t].is_output) continue;
    if (n < t) {
      ws.tokens[n] = ws.tokens[t];
      std::copy_n(ws.hidden.data() + t * c.n_embd, c.n_embd, ws.hidden.data() + n * c.n_embd);
      std::copy_n(ws.q.data() + t * c.n_queries(), c.n_queries(), ws.q.data() + n * c.n_queries());
    }
    ++n;
  }
  if (n == ws.tokens.size()) return;
  ws.tokens.resize(n);
  const PageGroup group = step.kv.layers[i_layer].group;
  ws.attention_plans[static_cast<size_t>(group)].make(ws.outputs, attention_shape(step, group));
}

}  // namespace

bool attention(const Step& step, size_t i_layer) {
  const Config& c = step.config;
  if (i_layer + 1 == c.n_layers) keep_outputs(step, i_layer);
  if (step.n_tokens() == 0) return false;
  const auto group = static_cast<size_t>(step.kv.layers[i_layer].group);
  const AttentionPlan& plan = step.ws.attention_plans[group];
  // Head by head: threads that are at the same head's keys find them in the shared cache.
  WorkerShares shares(step.gang.n_threads(),
                      [&](size_t worker) { return plan.items_of(worker).size() * c.n_kv_heads; });
  shares.for_each(step.gang,
                  [&](size_t owner, size_t i) { attend(step, i_layer, plan.items_of(owner), i); });
  if (plan.has_parts() || !gives_whole_blocks(c))
    for_each_token(step, [&](size_t t) { finish_token(step, plan.parts(t), t); });
  return true;
}

}  // namespace smallmind
