#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/checked_int.h"
#include "base/utf8.h"
#include "gguf/parser.h"

namespace smallmind::gguf {
namespace {

// A name has a length and one byte; then n_dims, one extent, type, offset.
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
// Extents and element counts stay in the range of int64_t, in which the graph computes.
constexpr uint64_t kMaxElements = std::numeric_limits<int64_t>::max();

void parse_name(ByteReader& reader, TensorInfo& tensor) {
  const uint64_t byte = reader.offset();
  const auto n_bytes = reader.take<uint64_t>("name length");
  if (n_bytes > kMaxTensorNameBytes) {
    reader.fail_at(byte, ErrorKind::kModelFormat,
                   "name length " + std::to_string(n_bytes) + " is more than " +
                       std::to_string(kMaxTensorNameBytes));
  }
  reader.append_to(tensor.name, n_bytes, "name");
  check_name(reader, tensor.name, byte, "name");
}

// Returns the number of elements.
CheckedU64 parse_extents(ByteReader& reader, TensorInfo& tensor) {
  const uint64_t byte = reader.offset();
  tensor.n_dims = reader.take<uint32_t>("n_dims");
  if (tensor.n_dims == 0 || tensor.n_dims > kMaxDims) {
    reader.fail_at(byte, ErrorKind::kModelFormat,
                   "n_dims wants 1 to 4, has " + std::to_string(tensor.n_dims));
  }
  CheckedU64 n_elements(1);
  for (uint32_t i = 0; i < tensor.n_dims; ++i) {
    const uint64_t extent_byte = reader.offset();
    const auto extent = reader.take<uint64_t>("extent");
    if (extent == 0 || extent > kMaxElements) {
      reader.fail_at(extent_byte, ErrorKind::kModelFormat,
                     "extent " + std::to_string(i) + " is " + std::to_string(extent));
    }
    tensor.dims[i] = extent;
    n_elements = n_elements * CheckedU64(extent);
  }
  if (!n_elements.ok_at_most(kMaxElements)) {
    reader.fail_at(byte, ErrorKind::kModelFormat, "the product of the extents does not fit");
  }
  return n_elements;
}

void parse_type(ByteReader& reader, TensorInfo& tensor, CheckedU64 n_elements) {
  const uint64_t byte = reader.offset();
  const auto id = reader.take<uint32_t>("tensor type");
  const auto traits = tensor_type_traits(id);
  if (!traits) {
    reader.fail_at(byte, ErrorKind::kUnsupportedModel,
                   "tensor type " + std::to_string(id) + " is not supported");
  }
  tensor.type = static_cast<TensorType>(id);
  if (tensor.dims[0] % traits->block_elements != 0) {
    reader.fail_at(byte, ErrorKind::kModelFormat,
                   "extent 0 is " + std::to_string(tensor.dims[0]) + ", " +
                       std::string(traits->name) + " wants a multiple of " +
                       std::to_string(traits->block_elements));
  }
  const CheckedU64 n_bytes = exact_quotient(n_elements, CheckedU64(traits->block_elements)) *
                             CheckedU64(traits->block_bytes);
  if (!n_bytes.ok()) {
    reader.fail_at(byte, ErrorKind::kModelFormat, "the size in bytes does not fit");
  }
  tensor.n_bytes = n_bytes.value();
}

TensorInfo parse_tensor_info(ByteReader& reader, uint64_t index) {
  TensorInfo tensor;
  const std::string number = std::to_string(index);
  reader.set_subject("tensor", number);
  parse_name(reader, tensor);
  reader.set_subject("tensor", tensor.name);
  const CheckedU64 n_elements = parse_extents(reader, tensor);
  parse_type(reader, tensor, n_elements);
  tensor.offset = reader.take<uint64_t>("offset");
  reader.set_subject("tensors", {});
  return tensor;
}

[[noreturn]] void fail(const TensorInfo& tensor, const std::string& why) {
  throw Error(ErrorKind::kModelFormat, "tensor '" + escape(tensor.name) + "': " + why);
}

void check_no_overlap(const std::vector<TensorInfo>& tensors) {
  std::vector<const TensorInfo*> by_offset;
  by_offset.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo& before = *by_offset[i - 1];
    // No wrap: place_tensors has found both inside the file.
    if (before.n_bytes > by_offset[i]->offset - before.offset) {
      fail(*by_offset[i], "its bytes at " + std::to_string(by_offset[i]->offset) +
                              " overlap those of tensor '" + escape(before.name) + "'");
    }
  }
}

}  // namespace

std::vector<TensorInfo> parse_tensor_infos(ByteReader& reader, uint64_t n_tensors) {
  reader.set_subject("tensors", {});
  reader.require_items(n_tensors, kMinTensorBytes, "n_tensors");
  std::vector<TensorInfo> tensors;
  tensors.reserve(static_cast<size_t>(n_tensors));
  for (uint64_t i = 0; i < n_tensors; ++i) tensors.push_back(parse_tensor_info(reader, i));
  return tensors;
}

void place_tensors(std::vector<TensorInfo>& tensors, uint64_t alignment, uint64_t data_offset,
                   uint64_t file_bytes) {
  for (TensorInfo& tensor : tensors) {
    if (tensor.offset % alignment != 0) {
      fail(tensor, "offset " + std::to_string(tensor.offset) + " is not a multiple of " +
                       std::to_string(alignment));
    }
    const CheckedU64 start = CheckedU64(data_offset) + CheckedU64(tensor.offset);
    const CheckedU64 end = start + CheckedU64(tensor.n_bytes);
    if (!end.ok_at_most(file_bytes)) {
      fail(tensor, "offset " + std::to_string(tensor.offset) + " and " +
                       std::to_string(tensor.n_bytes) + " bytes, after the data start at byte " +
                       std::to_string(data_offset) + ", end past the file's " +
                       std::to_string(file_bytes) + " bytes");
    }
    tensor.offset = start.value();
  }
  check_no_overlap(tensors);
}

std::vector<uint32_t> sort_by_name(const std::vector<TensorInfo>& tensors) {
  std::vector<uint32_t> by_name(tensors.size());
  std::iota(by_name.begin(), by_name.end(), 0u);
  std::sort(by_name.begin(), by_name.end(), [&](uint32_t a, uint32_t b) {
    const int order = tensors[a].name.compare(tensors[b].name);
    return order < 0 || (order == 0 && a < b);
  });
  const auto duplicate = std::adjacent_find(
      by_name.begin(), by_name.end(),
      [&](uint32_t a, uint32_t b) { return tensors[a].name == tensors[b].name; });
  if (duplicate != by_name.end()) fail(tensors[duplicate[1]], "the name is given twice");
  return by_name;
}

}  // namespace smallmind::gguf
