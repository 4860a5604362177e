#include "convert.h"

#include <limits>

#include "smallmind/error.h"

namespace smallmind::bindings {
namespace {

// Looked up once and kept for the life of the process. The package has imported the module: an
// import here would let other threads run, and one that met the guard of the same static would wait
// for it with the GIL held.
py::handle result_class(const char* name) {
  return py::object(py::module_::import("smallmind.results").attr(name)).release();
}

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

py::str text(const std::string& utf8) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(utf8.data(), static_cast<Py_ssize_t>(utf8.size()), "replace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

template <class Int>
std::vector<Int> integers_of(py::handle values, const char* name, const char* kind) {
  const std::string wants = std::string(name) + ": wants a sequence of int, has ";
  if (PyUnicode_Check(values.ptr()) || PyBytes_Check(values.ptr())) {
    throw py::type_error(wants + type_name(values));
  }
  // A tuple of its own: __index__ of an element may run code that changes the sequence.
  const py::tuple copy = py::reinterpret_steal<py::tuple>(PySequence_Tuple(values.ptr()));
  if (!copy) {
    PyErr_Clear();
    throw py::type_error(wants + type_name(values));
  }
  std::vector<Int> out;
  out.reserve(copy.size());
  for (size_t i = 0; i < copy.size(); ++i) {
    PyObject* const item = PyTuple_GET_ITEM(copy.ptr(), static_cast<Py_ssize_t>(i));
    const std::string where = std::string(name) + "[" + std::to_string(i) + "]";
    if (PyBool_Check(item) || !PyIndex_Check(item)) {
      throw py::type_error(where + ": wants int, has " + type_name(item));
    }
    const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(item));
    if (!index) throw py::error_already_set();
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (overflow != 0 || value < std::numeric_limits<Int>::min() ||
        value > std::numeric_limits<Int>::max()) {
      throw Error(ErrorKind::kInvalidArgument,
                  where + " = " + std::string(py::str(index)).substr(0, 40) + ": not " + kind);
    }
    out.push_back(static_cast<Int>(value));
  }
  return out;
}

py::object logprob_object(const TokenLogprob& value) {
  static const py::handle cls = result_class("TokenLogprob");
  py::tuple top(value.top.size());
  for (size_t i = 0; i < value.top.size(); ++i) {
    top[i] = py::make_tuple(value.top[i].first, value.top[i].second);
  }
  return cls(value.id, text(value.text), value.logprob, top);
}

}  // namespace

std::string utf8_of(py::handle value, const char* name) {
  if (!PyUnicode_Check(value.ptr())) {
    throw py::type_error(std::string(name) + ": wants str, has " + type_name(value));
  }
  Py_ssize_t size = 0;
  const char* const data = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (data != nullptr) return std::string(data, static_cast<size_t>(size));
  if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError) == 0) throw py::error_already_set();
  py::error_already_set failure;
  const py::object at = failure.value().attr("start");
  throw Error(ErrorKind::kInvalidArgument, std::string(name) + ": a lone surrogate at character " +
                                               std::string(py::str(at)) + " is not text");
}

std::string name_of(py::handle name, const char* field) {
  if (name.is_none()) return {};
  std::string text = utf8_of(name, field);
  if (text.empty() || text.find('\0') != std::string::npos) {
    throw Error(ErrorKind::kInvalidArgument,
                std::string(field) + (text.empty() ? ": is empty" : ": has a NUL character"));
  }
  return text;
}

std::string path_of(py::handle path) {
  const py::object plain = py::reinterpret_steal<py::object>(PyOS_FSPath(path.ptr()));
  if (!plain) throw py::error_already_set();
  py::object bytes = plain;
  if (PyUnicode_Check(plain.ptr())) {
    bytes = py::reinterpret_steal<py::object>(PyUnicode_EncodeFSDefault(plain.ptr()));
    if (!bytes) {
      PyErr_Clear();
      throw Error(ErrorKind::kInvalidArgument, "path: has a character that no file name can have");
    }
  }
  std::string out(PyBytes_AS_STRING(bytes.ptr()),
                  static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr())));
  if (out.empty() || out.find('\0') != std::string::npos) {
    throw Error(ErrorKind::kInvalidArgument,
                out.empty() ? "path: is empty" : "path: has a NUL character");
  }
  return out;
}

std::vector<int32_t> ids_of(py::handle ids, const char* name) {
  return integers_of<int32_t>(ids, name, "a token id");
}

std::vector<int64_t> indices_of(py::handle indices, const char* name) {
  return integers_of<int64_t>(indices, name, "an index");
}

int64_t positive(const std::optional<int64_t>& value, const char* name, int64_t absent) {
  if (!value) return absent;
  if (*value >= 1) return *value;
  throw Error(ErrorKind::kInvalidArgument,
              std::string(name) + " = " + std::to_string(*value) + ": must be at least 1");
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kTimeout:
      return "timeout";
  }
  return "cancelled";
}

TokenObject to_python(const Token& token) {
  static const py::handle cls = result_class("Token");
  const py::object logprob = token.logprob ? logprob_object(*token.logprob) : py::none();
  return TokenObject(cls(text(token.text), token.id, token.index, logprob));
}

ResultObject to_python(const GenerationResult& result) {
  static const py::handle cls = result_class("GenerationResult");
  static const py::handle usage_cls = result_class("Usage");
  static const py::handle timings_cls = result_class("Timings");
  py::list ids(result.token_ids.size());
  for (size_t i = 0; i < result.token_ids.size(); ++i) ids[i] = result.token_ids[i];
  py::object logprobs = py::none();
  if (!result.logprobs.empty()) {
    py::list values(result.logprobs.size());
    for (size_t i = 0; i < result.logprobs.size(); ++i) {
      values[i] = logprob_object(result.logprobs[i]);
    }
    logprobs = values;
  }
  const Usage& usage = result.usage;
  const Timings& timings = result.timings;
  return ResultObject(
      cls(text(result.text), ids, finish_reason_name(result.finish_reason),
          usage_cls(usage.prompt_tokens, usage.completion_tokens,
                    usage.prompt_tokens + usage.completion_tokens, usage.cached_tokens,
                    usage.max_tokens),
          timings_cls(timings.queue_s, timings.prefill_s, timings.first_token_s, timings.decode_s),
          logprobs, result.seed, text(result.session_id)));
}

InfoObject to_python(const EngineInfo& info) {
  static const py::handle cls = result_class("EngineInfo");
  const py::object path = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefaultAndSize(
      info.model_path.data(), static_cast<Py_ssize_t>(info.model_path.size())));
  if (!path) throw py::error_already_set();
  return InfoObject(cls(text(info.architecture), text(info.model_name), path, text(info.isa),
                        info.n_threads, info.context_length, info.n_vocab, info.n_embd,
                        info.n_layers, info.weight_bytes, info.kv_bytes_per_token,
                        info.cache_type == CacheType::kBf16 ? "bf16" : "q8_0", info.kv_limit));
}

StatusObject to_python(const EngineStatus& status) {
  static const py::handle cls = result_class("EngineStatus");
  return StatusObject(cls(status.n_sessions, status.n_running, status.n_queued, status.n_kv_pages,
                          status.n_cached_pages, status.kv_bytes, status.n_cached_tokens,
                          status.n_computed_tokens, status.n_generated_tokens,
                          status.n_evicted_pages, status.n_steps));
}

MemoryObject to_python(const EngineMemory& memory) {
  static const py::handle cls = result_class("EngineMemory");
  return MemoryObject(cls(memory.weights, memory.kv, memory.kv_in_use, memory.kv_cached,
                          memory.kv_limit, memory.workspace, memory.tokenizer, memory.requests,
                          memory.total, memory.peak));
}

SummaryObject to_python(const FileSummary& summary) {
  const py::module_ classes = py::module_::import("smallmind.file_summary");  // the first import
  const py::object cls = classes.attr("FileSummary");
  const py::object key_value_cls = classes.attr("KeyValue");
  const py::object tensor_cls = classes.attr("TensorSummary");
  py::tuple metadata(summary.metadata.size());
  for (size_t i = 0; i < summary.metadata.size(); ++i) {
    const auto& entry = summary.metadata[i];
    metadata[i] = key_value_cls(text(entry.key), text(entry.type), text(entry.value));
  }
  py::tuple tensors(summary.tensors.size());
  for (size_t i = 0; i < summary.tensors.size(); ++i) {
    const auto& tensor = summary.tensors[i];
    py::tuple dims(tensor.dims.size());
    for (size_t d = 0; d < tensor.dims.size(); ++d) dims[d] = tensor.dims[d];
    tensors[i] =
        tensor_cls(text(tensor.name), text(tensor.type), dims, tensor.offset, tensor.n_bytes);
  }
  return SummaryObject(
      cls(summary.version, summary.alignment, summary.file_bytes, metadata, tensors));
}

void refuse_copy(const char* what, const char* instead) {
  throw py::type_error(std::string(what) + " cannot be pickled or copied; " + instead);
}

}  // namespace smallmind::bindings
