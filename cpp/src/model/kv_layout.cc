#include "model/kv_layout.h"

namespace smallmind {

KvLayout make_kv_layout(const Config& c) {
  KvLayout layout;
  layout.region_bytes = kPageTokens * c.head_dim * 2;
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
