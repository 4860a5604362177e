// The parts of parse(): each reads one part of the file and validates all that it says.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/byte_reader.h"
#include "gguf/metadata_impl.h"
#include "gguf/reader.h"

namespace smallmind::gguf {

// Reads n_kv entries. REQUIRES: n_kv <= kMaxKeyValues.
std::unique_ptr<Metadata::Impl> parse_metadata(ByteReader& reader, uint64_t n_kv);

// Reads n_tensors tensor infos; offsets are still relative to the tensor data.
// REQUIRES: n_tensors <= kMaxTensors.
std::vector<TensorInfo> parse_tensor_infos(ByteReader& reader, uint64_t n_tensors);

// Makes the offsets absolute, and checks that every tensor is aligned, inside the file and apart
// from all others.
void place_tensors(std::vector<TensorInfo>& tensors, uint64_t alignment, uint64_t data_offset,
                   uint64_t file_bytes);

// The indices of `tensors`, ascending by name. Two equal names are kModelFormat.
std::vector<uint32_t> sort_by_name(const std::vector<TensorInfo>& tensors);

// Throws kModelFormat unless the name is not empty, valid UTF-8 and free of control characters.
void check_name(const ByteReader& reader, const std::string& name, uint64_t byte, const char* what);

}  // namespace smallmind::gguf
