#include "model/architectures.h"

namespace smallmind {

extern const Architecture kLlama;
extern const Architecture kGemma3;

// THE LIST.
static const Architecture* const kArchitectures[] = {&kLlama, &kGemma3};

const Architecture* find_architecture(std::string_view name) {
  for (const Architecture* a : kArchitectures)
    if (name == a->name) return a;
  return nullptr;
}

}  // namespace smallmind
