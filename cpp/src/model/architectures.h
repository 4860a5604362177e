// Model families: each is one file in arch/ and one name in architectures.cc.
#pragma once

#include <string_view>

#include "model/blocks.h"

namespace smallmind {

struct Architecture {
  const char* name;  // general.architecture
  Config (*read_config)(const gguf::Header& header);
  void (*bind_weights)(const Config& config, WeightBinder& binder, Weights& weights);
  // Takes hidden and normed from one layer to the next; the last one ends where attention() says
  // that there is nothing to go on with.
  void (*run_layer)(const Step& step, size_t i);
};

// Null when the family is not known.
const Architecture* find_architecture(std::string_view name);

}  // namespace smallmind
