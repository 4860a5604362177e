// The GGUF file format, versions 2 and 3, in prose, with its constants.
//
// A file is little-endian and has four parts, one after the other:
//   1. header: magic "GGUF", u32 version, u64 n_tensors, u64 n_kv;
//   2. n_kv metadata entries: key (string), u32 value type, value. A string is u64 length and that
//   many bytes, no NUL at the end. An array is
//      u32 element type, u64 length, elements. A bool is one byte, 0 or 1;
//   3. n_tensors tensor infos: name (string), u32 n_dims (1 to 4), n_dims x u64 extents (fastest
//   first), u32 tensor type, u64 offset from the start of part 4;
//   4. tensor data, from the next multiple of general.alignment (u32, a power of two up to 64 KiB,
//      default 32) on; each tensor starts at a multiple of it.
//
// Rules where files differ: tensors may stand in any order; gaps between them and bytes after the
// last one are allowed and never read; two tensors that share a byte are refused. Keys and tensor
// names are UTF-8 without control characters, and unique. A file without tensors (a vocabulary) may
// end where the tensor infos end.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace smallmind::gguf {

enum class ValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// Tensor types by their upstream ids; the ids not named here are retired or not supported.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};

struct TensorTypeTraits {
  std::string_view name;
  uint32_t block_elements;
  uint32_t block_bytes;
};

// Nothing for an id that smallmind does not read.
constexpr std::optional<TensorTypeTraits> tensor_type_traits(uint32_t id) {
  switch (static_cast<TensorType>(id)) {
    case TensorType::kF32:
      return TensorTypeTraits{"F32", 1, 4};
    case TensorType::kF16:
      return TensorTypeTraits{"F16", 1, 2};
    case TensorType::kQ4_0:
      return TensorTypeTraits{"Q4_0", 32, 18};
    case TensorType::kQ4_1:
      return TensorTypeTraits{"Q4_1", 32, 20};
    case TensorType::kQ5_0:
      return TensorTypeTraits{"Q5_0", 32, 22};
    case TensorType::kQ8_0:
      return TensorTypeTraits{"Q8_0", 32, 34};
    case TensorType::kQ4_K:
      return TensorTypeTraits{"Q4_K", 256, 144};
    case TensorType::kQ6_K:
      return TensorTypeTraits{"Q6_K", 256, 210};
    case TensorType::kBF16:
      return TensorTypeTraits{"BF16", 1, 2};
  }
  return std::nullopt;
}

// Limits: a file that asks for more is refused before anything is allocated.
inline constexpr uint64_t kMaxKeyValues = 65'536;
inline constexpr uint64_t kMaxTensors = 65'536;
inline constexpr uint64_t kMaxStringBytes = 1 << 20;
inline constexpr uint64_t kMaxKeyBytes = 65'535;
inline constexpr uint64_t kMaxTensorNameBytes = 63;
inline constexpr uint64_t kMaxTemplateBytes = 256 << 10;
inline constexpr uint64_t kMaxTemplates = 64;
inline constexpr uint64_t kMaxTokenBytes = 4 << 10;
inline constexpr uint64_t kMaxMergeBytes = 2 * kMaxTokenBytes + 1;  // two tokens and a space
inline constexpr uint64_t kMaxArrayLength = 1 << 24;
inline constexpr uint64_t kMaxHeaderBytes = 256 << 20;
inline constexpr uint64_t kMaxLayers = 1'024;
inline constexpr uint64_t kMaxAlignment = 64 << 10;
inline constexpr uint64_t kDefaultAlignment = 32;
inline constexpr uint32_t kMaxDims = 4;

}  // namespace smallmind::gguf
