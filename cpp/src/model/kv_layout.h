// Where the keys and values of a layer and head stand in a page.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "model/config.h"
#include "model/model.h"

namespace smallmind {

// Immutable after load. A page of a group holds, for each of its layers and their kv heads, the
// keys of 32 positions and then their values (kernels.h has the order within).
struct KvLayout {
  struct Layer {
    PageGroup group = PageGroup::kFull;
    size_t offset = 0;  // of the first head's keys, bytes
  };
  KvFormat format = KvFormat::kBf16;
  std::vector<Layer> layers;
  std::array<size_t, kPageGroups> page_bytes = {};  // 0: no layer is of that group
  size_t region_bytes = 0;                          // one head's keys, or its values

  size_t keys_offset(size_t layer, size_t kv_head) const {
    return layers[layer].offset + kv_head * 2 * region_bytes;
  }
};

// Throws Error(kUnsupportedModel) when the heads do not fit the cache type.
KvLayout make_kv_layout(const Config& config, CacheType cache_type);

}  // namespace smallmind
