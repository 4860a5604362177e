#include "smallmind/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>
#include <mutex>
#include <vector>

#include "classes.h"
#include "convert.h"
#include "hooks.h"
#include "smallmind/error.h"

namespace smallmind::bindings {
namespace {

// Every engine that may still run when the interpreter ends.
std::mutex engines_mutex;
std::vector<std::weak_ptr<Engine>> engines;

void remember(const std::shared_ptr<Engine>& engine) {
  const std::lock_guard lock(engines_mutex);
  std::erase_if(engines, [](const auto& known) { return known.expired(); });
  engines.push_back(engine);
}

// For Python's atexit: ends all engines, so that no thread waits on one any more.
void shut_down() {
  begin_shutdown();
  const GilRelease released;
  std::vector<std::weak_ptr<Engine>> known;
  {
    const std::lock_guard lock(engines_mutex);
    known = engines;
  }
  for (const auto& entry : known) {
    try {
      if (const auto engine = entry.lock()) engine->close();
    } catch (...) {
      // A forked child, or an engine that is past saving: the process ends anyway.
    }
  }
  settle_shutdown();
}

CacheType cache_type_of(const std::string& name) {
  if (name == "bf16") return CacheType::kBf16;
  if (name == "q8_0") return CacheType::kQ8_0;
  throw Error(ErrorKind::kInvalidArgument,
              "cache_type: must be 'bf16' or 'q8_0', is " + std::string(py::repr(py::str(name))));
}

OnFull on_full_of(const std::string& name) {
  if (name == "pause") return OnFull::kPause;
  if (name == "error") return OnFull::kError;
  throw Error(ErrorKind::kInvalidArgument,
              "on_full: must be 'pause' or 'error', is " + std::string(py::repr(py::str(name))));
}

EngineOptions engine_options(const PathArgument& path, std::optional<int64_t> n_threads,
                             std::optional<int64_t> context_length, bool enable_kv_cache,
                             const std::string& cache_type, std::optional<int64_t> kv_limit,
                             std::optional<int64_t> max_kv_tokens,
                             std::optional<int64_t> max_queue_depth, int64_t max_buffered_tokens,
                             const std::string& on_full, std::optional<double> request_timeout) {
  const int64_t threads = positive(n_threads, "n_threads", 0);
  if (threads > std::numeric_limits<int>::max()) {
    throw Error(ErrorKind::kInvalidArgument,
                "n_threads = " + std::to_string(threads) + ": must be 1 ... 64");
  }
  return EngineOptions{
      .model_path = path_of(path),
      .n_threads = static_cast<int>(threads),
      .context_length = positive(context_length, "context_length", 0),
      .enable_kv_cache = enable_kv_cache,
      .cache_type = cache_type_of(cache_type),
      .kv_limit = static_cast<uint64_t>(positive(kv_limit, "kv_limit", 0)),
      .max_kv_tokens = positive(max_kv_tokens, "max_kv_tokens", 0),
      .max_queue_depth = positive(max_queue_depth, "max_queue_depth", 0),
      .max_buffered_tokens = positive(max_buffered_tokens, "max_buffered_tokens", 0),
      .on_full = on_full_of(on_full),
      .request_timeout_s = request_timeout.value_or(0)};
}

std::unique_ptr<EngineHandle> load(const PathArgument& path, std::optional<int64_t> n_threads,
                                   std::optional<int64_t> context_length, bool enable_kv_cache,
                                   const std::string& cache_type, std::optional<int64_t> kv_limit,
                                   std::optional<int64_t> max_kv_tokens,
                                   std::optional<int64_t> max_queue_depth,
                                   int64_t max_buffered_tokens, const std::string& on_full,
                                   std::optional<double> request_timeout,
                                   const ProgressArgument& progress,
                                   const std::optional<CancellationToken>& cancel) {
  const EngineOptions options =
      engine_options(path, n_threads, context_length, enable_kv_cache, cache_type, kv_limit,
                     max_kv_tokens, max_queue_depth, max_buffered_tokens, on_full, request_timeout);
  std::shared_ptr<Engine> engine;
  Hooks(progress, cancel).run([&](const CallHooks& hooks) {
    engine = Engine::load(options, hooks);
    remember(engine);
  });
  return std::make_unique<EngineHandle>(std::move(engine));
}

std::unique_ptr<SessionHandle> text_session(const EngineHandle& self, const py::object& id,
                                            std::optional<int64_t> max_kv_tokens,
                                            const py::object& cache_salt,
                                            const py::object& fairness_key) {
  const SessionOptions options{.id = name_of(id, "session_id"),
                               .max_kv_tokens = positive(max_kv_tokens, "max_kv_tokens", 0),
                               .cache_salt = name_of(cache_salt, "cache_salt"),
                               .fairness_key = name_of(fairness_key, "fairness_key")};
  const auto engine = self.engine;
  const GilRelease released;
  return std::make_unique<SessionHandle>(engine->text_session(options));
}

// The caller's array, checked, or a new one.
py::array_t<float> score_output(const py::object& out, size_t n_rows, int64_t n_vocab) {
  const auto rows = static_cast<py::ssize_t>(n_rows);
  const auto columns = static_cast<py::ssize_t>(n_vocab);
  if (out.is_none()) return py::array_t<float>({rows, columns});
  if (!py::isinstance<py::array_t<float>>(out)) {
    throw py::type_error("out: wants a numpy array of dtype float32");
  }
  py::array array(out);
  if (array.ndim() != 2 || array.shape(0) != rows || array.shape(1) != columns) {
    throw Error(ErrorKind::kInvalidArgument, "out: must have the shape (" + std::to_string(rows) +
                                                 ", " + std::to_string(columns) + "), has " +
                                                 std::string(py::str(out.attr("shape"))));
  }
  if ((array.flags() & py::array::c_style) == 0 || !array.writeable()) {
    throw Error(ErrorKind::kInvalidArgument, "out: must be C-contiguous and writable");
  }
  return py::array_t<float>(array);
}

py::array_t<float> score(const EngineHandle& self, const IdsArgument& ids,
                         const py::object& positions, const py::object& out,
                         const std::optional<CancellationToken>& cancel,
                         const ProgressArgument& progress) {
  const std::vector<int32_t> tokens = ids_of(ids, "ids");
  std::vector<int64_t> rows;
  if (positions.is_none()) {
    rows.resize(tokens.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  } else {
    rows = indices_of(positions, "positions");
  }
  const auto engine = self.engine;
  py::array_t<float> array = score_output(out, rows.size(), engine->info().n_vocab);
  float* const data = array.mutable_data();
  Hooks(progress, cancel).run([&](const CallHooks& hooks) {
    engine->score(tokens, rows, data, hooks);
  });
  return array;
}

}  // namespace

EngineHandle::~EngineHandle() {
  const GilRelease released;
  engine.reset();
}

void bind_engine(py::module_& module) {
  py::class_<EngineHandle>(module, "Engine", "One model, many sessions; any thread.")
      .def_static("load", &load, py::arg("path"), py::kw_only(), py::arg("n_threads"),
                  py::arg("context_length"), py::arg("enable_kv_cache"), py::arg("cache_type"),
                  py::arg("kv_limit"), py::arg("max_kv_tokens"), py::arg("max_queue_depth"),
                  py::arg("max_buffered_tokens"), py::arg("on_full"), py::arg("request_timeout"),
                  py::arg("progress"), py::arg("cancel"))
      .def("text_session", &text_session, py::arg("session_id"), py::arg("max_kv_tokens"),
           py::arg("cache_salt"), py::arg("fairness_key"))
      .def("tokenizer",
           [](const EngineHandle& self) {
             return std::const_pointer_cast<Tokenizer>(self.engine->tokenizer());
           })
      .def("score", &score, py::arg("ids"), py::kw_only(), py::arg("positions"), py::arg("out"),
           py::arg("cancel"), py::arg("progress"))
      .def("close",
           [](EngineHandle& self) {
             const auto engine = self.engine;
             const GilRelease released;
             engine->close();
           })
      .def_property_readonly("closed",
                             [](const EngineHandle& self) { return self.engine->closed(); })
      .def("info", [](const EngineHandle& self) { return to_python(self.engine->info()); })
      .def("status", [](const EngineHandle& self) { return to_python(self.engine->status()); })
      .def("memory", [](const EngineHandle& self) { return to_python(self.engine->memory()); });
  module.def("shut_down", &shut_down, "Called when the interpreter ends.");
}

}  // namespace smallmind::bindings
