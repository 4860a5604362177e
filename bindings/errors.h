// The core's Error as the exceptions of smallmind.errors.
#pragma once

#include <pybind11/pybind11.h>

namespace smallmind::bindings {

void register_errors(pybind11::module_& module);

}  // namespace smallmind::bindings
