#include "errors.h"

#include <array>
#include <cstddef>

#include "smallmind/error.h"

namespace smallmind::bindings {
namespace {

namespace py = pybind11;

constexpr size_t kKinds = static_cast<size_t>(ErrorKind::kInference) + 1;

// In the order of ErrorKind.
constexpr std::array<const char*, kKinds> kClassNames = {
    "ModelNotFoundError", "ModelFormatError",   "ModelLimitError",    "UnsupportedModelError",
    "ModelIOError",       "MemoryBudgetError",  "ContextLengthError", "InvalidArgumentError",
    "SessionBusyError",   "SessionClosedError", "EngineClosedError",  "ForkedProcessError",
    "QueueFullError",     "BufferFullError",    "CancelledError",     "DeadlineError",
    "ThreadSafetyError",  "InferenceError",
};

// Borrowed for the life of the process: smallmind.errors is never unloaded while this module is.
std::array<PyObject*, kKinds> classes{};

void raise(const Error& error) {
  PyObject* const type = classes[static_cast<size_t>(error.kind())];
  try {
    const py::str message = py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
        error.what(), static_cast<Py_ssize_t>(strlen(error.what())), "replace"));
    const py::object value = py::handle(type)(message, error.code());
    PyErr_SetObject(type, value.ptr());
  } catch (py::error_already_set& failure) {
    failure.restore();  // no memory for the exception itself
  }
}

}  // namespace

void register_errors(py::module_& module) {
  const py::module_ errors = py::module_::import("smallmind.errors");
  for (size_t i = 0; i < kKinds; ++i) {
    classes[i] = py::object(errors.attr(kClassNames[i])).release().ptr();
  }
  (void)module;
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const Error& error) {
      raise(error);
    }
  });
}

}  // namespace smallmind::bindings
