// What a GGUF file says about itself, for people and tools.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "smallmind/cancellation.h"

namespace smallmind {

// Plain data. Every string that comes from the file is escaped to printable ASCII and cut.
struct FileSummary {
  struct KeyValue {
    std::string key;
    std::string type;   // "u32", "str", "array[str]"
    std::string value;  // strings in quotes; of long arrays the first elements and the length
  };
  struct Tensor {
    std::string name;
    std::string type;            // "Q4_K"
    std::vector<uint64_t> dims;  // fastest first
    uint64_t offset = 0;         // from the start of the file
    uint64_t n_bytes = 0;
  };
  uint32_t version = 0;
  uint64_t alignment = 0;
  uint64_t file_bytes = 0;
  std::vector<KeyValue> metadata;  // in file order
  std::vector<Tensor> tensors;     // in file order
};

// Reads and validates the header; no tensor data, and nothing of what the model needs to be
// runnable. Any thread. Throws as loading does: kModelNotFound, kModelIo, kModelFormat,
// kModelLimit, kUnsupportedModel, kCancelled, kDeadline.
FileSummary inspect_file(const std::string& path, const CallHooks& hooks = {});

}  // namespace smallmind
