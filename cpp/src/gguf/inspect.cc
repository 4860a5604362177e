#include "smallmind/inspect.h"

#include <utility>

#include "base/file.h"
#include "base/utf8.h"
#include "gguf/reader.h"

namespace smallmind {
namespace {

FileSummary::Tensor summarize(const gguf::TensorInfo& tensor) {
  FileSummary::Tensor summary;
  summary.name = escape(tensor.name);
  // The header holds only types with traits.
  summary.type = gguf::tensor_type_traits(static_cast<uint32_t>(tensor.type)).value().name;
  summary.dims.assign(tensor.dims.begin(), tensor.dims.begin() + tensor.n_dims);
  summary.offset = tensor.offset;
  summary.n_bytes = tensor.n_bytes;
  return summary;
}

}  // namespace

FileSummary inspect_file(const std::string& path, const CallHooks& hooks) {
  const auto source = open_file(path);
  const gguf::Header header = gguf::parse(*source, hooks);
  FileSummary summary;
  summary.version = header.version;
  summary.alignment = header.alignment;
  summary.file_bytes = header.file_bytes;
  for (auto& item : header.metadata.summaries()) {
    summary.metadata.push_back({std::move(item.key), std::move(item.type), std::move(item.value)});
  }
  for (const auto& tensor : header.tensors) summary.tensors.push_back(summarize(tensor));
  return summary;
}

}  // namespace smallmind
