#include "model/kv_layout.h"

#include <string>

#include "smallmind/error.h"

namespace smallmind {

KvLayout make_kv_layout(const Config& c, CacheType cache_type) {
  KvLayout layout;
  if (cache_type == CacheType::kQ8_0) {
    if (c.head_dim % 32 != 0)
      throw Error(ErrorKind::kUnsupportedModel,
                  "cache_type: q8_0 wants heads of a multiple of 32 elements; this model's have " +
                      std::to_string(c.head_dim));
    layout.format = KvFormat::kQ8_0;
  }
  layout.region_bytes = kv_region_bytes(layout.format, c.head_dim);
  layout.layers.reserve(c.n_layers);
  for (size_t i = 0; i < c.n_layers; ++i) {
    const PageGroup group = c.windowed[i] ? PageGroup::kWindow : PageGroup::kFull;
    size_t& bytes = layout.page_bytes[static_cast<size_t>(group)];
    layout.layers.push_back({group, bytes});
    bytes += 2 * c.n_kv_heads * layout.region_bytes;
  }
  return layout;
}

}  // namespace smallmind
