#include "smallmind/inspect.h"

#include <pybind11/stl.h>

#include "classes.h"
#include "convert.h"
#include "hooks.h"

namespace smallmind::bindings {

void bind_inspect(py::module_& module) {
  module.def(
      "inspect_file",
      [](const PathArgument& path, const std::optional<CancellationToken>& cancel) {
        const std::string file = path_of(path);
        FileSummary summary;
        Hooks(py::none(), cancel).run([&](const CallHooks& hooks) {
          summary = inspect_file(file, hooks);
        });
        return to_python(summary);
      },
      py::arg("path"), py::kw_only(), py::arg("cancel") = py::none(),
      "Metadata and tensors of a GGUF file, checked, escaped and cut; reads no tensor data.");
}

}  // namespace smallmind::bindings
