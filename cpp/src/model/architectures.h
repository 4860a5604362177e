// Model families: each is one file in arch/ and one name in architectures.cc.
#pragma once

#include <string_view>

#include "model/blocks.h"

namespace smallmind {

struct Architecture {
  const char* name;  // general.architecture
  Config (*read_config)(const gguf::Header& header);
  void (*bind_weights)(const Config& config, WeightBinder& binder, Weights& weights);
  void (*forward)(const Step& step);  // from begin_step to the last hidden state
};

// Null when the family is not known.
const Architecture* find_architecture(std::string_view name);

}  // namespace smallmind
