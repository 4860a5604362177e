// Reads a GGUF header: parses and validates everything, tensor infos included, before any tensor is
// touched.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "gguf/metadata.h"
#include "smallmind/cancellation.h"

namespace smallmind::gguf {

struct TensorInfo {
  std::string name;
  TensorType type = TensorType::kF32;
  uint32_t n_dims = 0;
  std::array<uint64_t, kMaxDims> dims = {1, 1, 1, 1};  // fastest first; 1 beyond n_dims
  uint64_t offset = 0;                                 // from the start of the file
  uint64_t n_bytes = 0;
};

// Immutable after parsing; any thread.
struct Header {
  uint32_t version = 0;
  uint64_t alignment = kDefaultAlignment;
  uint64_t data_offset = 0;
  uint64_t file_bytes = 0;
  Metadata metadata;
  std::vector<TensorInfo>
      tensors;  // in file order; ranges are inside the file, aligned and do not overlap

  std::vector<uint32_t> tensors_by_name;  // indices into tensors, ascending by name

  const TensorInfo* find_tensor(std::string_view name) const;  // null: absent
};

// Throws Error(kModelFormat, kModelLimit, kUnsupportedModel, kModelIo) naming field and byte
// offset. Peak memory is bounded by twice the header bytes really in the source plus 64 MiB.
// hooks.tick sees the stage "header"; its total is an upper bound, for the header's end is not
// known before it is reached.
Header parse(const ByteSource& source, const CallHooks& hooks = {});

}  // namespace smallmind::gguf
