// The extension module smallmind._core: one bound class a file, no logic of its own. What users
// see is in python/smallmind.
#include <pybind11/pybind11.h>

#include "classes.h"
#include "errors.h"
#include "gil.h"

namespace smallmind::bindings {
namespace {

// Some objects never get their value: `cls.__new__(cls)`, and those that an exception meets before
// __init__. Asked for such a value pybind11 takes raw memory for it, by this function of the type.
void* refuse_unmade(size_t) {
  throw py::type_error("the object is not usable: its __init__() was not called");
}

void refuse_unmade_objects(const py::module_& module) {
  for (const auto& [name, value] : module.attr("__dict__").cast<py::dict>()) {
    if (!py::isinstance<py::type>(value)) continue;
    auto* type = py::detail::get_type_info(reinterpret_cast<PyTypeObject*>(value.ptr()));
    if (type != nullptr) type->operator_new = &refuse_unmade;
  }
}

}  // namespace
}  // namespace smallmind::bindings

PYBIND11_MODULE(_core, module) {
  using namespace smallmind::bindings;
  module.doc() = "The core of smallmind. Use the names of the package smallmind instead.";
  install_fork_handler();
  register_errors(module);
  bind_cancellation(module);
  bind_params(module);
  bind_tokenizer(module);
  bind_waker(module);
  bind_stream(module);
  bind_session(module);
  bind_engine(module);
  bind_inspect(module);
  bind_runtime(module);
  refuse_unmade_objects(module);
}
