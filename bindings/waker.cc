#include <pybind11/stl.h>

#include "classes.h"
#include "smallmind/stream.h"

namespace smallmind::bindings {

void bind_waker(py::module_& module) {
  py::class_<Waker, std::shared_ptr<Waker>>(
      module, "Waker", "One event descriptor through which many streams tell one event loop.")
      .def(py::init<>())
      .def("fileno", &Waker::fd)
      .def("take_ready", &Waker::take_ready,
           "Empties the descriptor; the keys of the streams with news, each once.");
}

}  // namespace smallmind::bindings
