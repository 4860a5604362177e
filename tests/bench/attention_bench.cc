// Attention over a cache of keys and values, as the two models have it.
#include <cmath>
#include <cstring>
#include <vector>

#include "bench.h"
#include "kernels/kernels.h"

namespace smallmind::bench {
namespace {

struct Shape {
  KvFormat format;
  size_t head_dim;
  size_t n_queries;  // that share keys and values: heads of a group, times tokens of a tile
  size_t n_keys;
  bool streamed;  // one head after another, whose keys and values come from memory
};

void attend(benchmark::State& state, const Shape& shape) {
  const size_t region = kv_region_bytes(shape.format, shape.head_dim),
               n_pages = (shape.n_keys + kPageKeys - 1) / kPageKeys;
  const size_t n_bytes = 2 * region * n_pages;
  const size_t n_heads =
      shape.streamed ? streamed_bytes() / static_cast<size_t>(state.threads()) / n_bytes + 1 : 1;
  // Page by page the keys and values of all heads, as the engine has them.
  const AlignedBuffer<std::byte> storage = make_bytes(n_bytes * n_heads);
  const std::vector<float> row(shape.head_dim, 0.5f);
  std::byte* const first = storage.data();
  for (size_t slot = 0; slot < kPageKeys; ++slot)
    kernels().store_kv(shape.format, row.data(), row.data(), shape.head_dim, slot, false, first,
                       first + region);
  for (size_t i = 1; i < n_pages * n_heads; ++i)
    std::memcpy(first + i * 2 * region, first, 2 * region);
  std::vector<const std::byte*> pages(n_pages);
  for (size_t page = 0; page < n_pages; ++page) pages[page] = first + page * n_heads * 2 * region;
  std::vector<std::vector<float>> out(shape.n_queries, row);
  AttentionTile tile;
  tile.n_queries = shape.n_queries;
  for (size_t q = 0; q < shape.n_queries; ++q) {
    tile.queries[q] = row.data();
    tile.end[q] = static_cast<int64_t>(shape.n_keys);
    tile.out[q] = out[q].data();
  }
  tile.format = shape.format;
  tile.pages = pages.data();
  tile.head_dim = shape.head_dim;
  tile.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  for (auto _ : state) {
    for (size_t head = 0; head < n_heads; ++head) {
      tile.k_offset = head * 2 * region;
      tile.v_offset = tile.k_offset + region;
      for (size_t i = 0; i < 2 && shape.streamed; ++i)
        tile.after[i] = pages[i] + (head + 1) % n_heads * 2 * region;
      kernels().attention(tile);
    }
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(storage.bytes()));
  count_operations(
      state, 4.0 * static_cast<double>(shape.n_queries * shape.n_keys * shape.head_dim * n_heads));
}

}  // namespace

void add_attention() {
  const struct {
    const char* name;
    size_t head_dim, group;
  } models[] = {{"smollm2", 64, 3}, {"gemma3", 256, 4}};
  for (const auto& model : models) {
    for (const KvFormat format : {KvFormat::kBf16, KvFormat::kQ8_0}) {
      for (const size_t n_keys : {89, 512, 4096}) {
        for (const bool prefill : {false, true}) {
          const size_t n_queries =
              prefill ? kMaxTileQueries / model.group * model.group : model.group;
          const std::string name = std::string("attention/") + model.name +
                                   (format == KvFormat::kBf16 ? "/bf16/" : "/q8_0/") +
                                   (prefill ? "prefill/" : "decode/") + std::to_string(n_keys);
          Shape shape{format, model.head_dim, n_queries, n_keys, false};
          add(name, 1, [shape](benchmark::State& state) { attend(state, shape); });
          if (prefill || n_keys == 89) continue;
          shape.streamed = true;
          for (const int n_threads : {1, 2})
            add(name + "/streamed", n_threads,
                [shape](benchmark::State& state) { attend(state, shape); });
        }
      }
    }
  }
}

}  // namespace smallmind::bench
