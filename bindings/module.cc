// The extension module smallmind._core: one bound class a file, no logic of its own. What users
// see is in python/smallmind.
#include <pybind11/pybind11.h>

#include "classes.h"
#include "errors.h"
#include "gil.h"

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
}
