#include "smallmind/runtime.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "classes.h"
#include "convert.h"
#include "gil.h"
#include "smallmind/error.h"

namespace smallmind::bindings {
namespace {

// How long the interpreter's exit waits for running jobs, whose tokens have been tripped.
constexpr std::chrono::seconds kExitPatience{1};

void configure(std::optional<int64_t> n_threads, std::optional<int64_t> max_queue_size,
               std::optional<int64_t> stack_size, std::optional<std::string> thread_name_prefix,
               const std::vector<std::string>& presets) {
  RuntimeOptions options;
  for (const std::string& preset : presets) apply_preset(options, preset);
  const int64_t threads = positive(n_threads, "n_threads", options.n_threads);
  options.n_threads = static_cast<int>(std::min<int64_t>(threads, std::numeric_limits<int>::max()));
  options.max_queue_size = positive(max_queue_size, "max_queue_size", options.max_queue_size);
  const int64_t stack =
      positive(stack_size, "stack_size", static_cast<int64_t>(options.stack_size));
  options.stack_size = static_cast<size_t>(stack);
  if (thread_name_prefix) options.thread_name_prefix = *thread_name_prefix;
  const GilRelease released;
  Runtime::process().configure(options);
}

py::typing::Dict<py::str, py::object> status() {
  const RuntimeStatus now = Runtime::process().status();
  py::typing::Dict<py::str, py::object> values;
  values["n_threads"] = now.options.n_threads;
  values["max_queue_size"] = now.options.max_queue_size;
  values["stack_size"] = now.options.stack_size > 0 ? py::object(py::int_(now.options.stack_size))
                                                    : py::object(py::none());
  values["thread_name_prefix"] = now.options.thread_name_prefix;
  values["is_shut_down"] = now.is_shut_down;
  values["n_started_threads"] = now.n_started_threads;
  values["n_active"] = now.n_active;
  values["n_queued"] = now.n_queued;
  values["n_running"] = now.n_running;
  values["n_completed"] = now.n_completed;
  return values;
}

bool shutdown(bool is_cancel, std::optional<double> timeout) {
  const Clock::time_point deadline =
      timeout ? *CancellationToken::with_timeout(*timeout).deadline() : Clock::time_point::max();
  Runtime& runtime = Runtime::process();
  {
    const GilRelease released;
    runtime.close(is_cancel ? ShutdownMode::kCancel : ShutdownMode::kDrain);
  }
  bool is_joined = false;
  wait_for([&](Clock::duration most) {
    const Clock::time_point now = Clock::now();
    const bool is_last = most == Clock::duration::max() || deadline - now <= most;
    is_joined = runtime.join(is_last ? deadline : now + most);
    return is_joined || is_last;
  });
  if (!is_joined) {
    const GilRelease released;
    runtime.close(ShutdownMode::kCancel);
  }
  return is_joined;
}

// For Python's atexit: no job may run into the end of the process's statics.
void end_with_interpreter() {
  const GilRelease released;
  Runtime::process().shutdown(ShutdownMode::kCancel, Clock::now() + kExitPatience);
}

}  // namespace

void bind_runtime(py::module_& module) {
  module.def("configure_runtime", &configure, py::kw_only(), py::arg("n_threads"),
             py::arg("max_queue_size"), py::arg("stack_size"), py::arg("thread_name_prefix"),
             py::arg("presets"), "See smallmind.runtime.configure.");
  module.def("runtime_status", &status, "The fields of smallmind.runtime.RuntimeStatus.");
  module.def("shut_down_runtime", &shutdown, py::kw_only(), py::arg("is_cancel"),
             py::arg("timeout"), "See smallmind.runtime.shutdown.");
  py::module_::import("atexit").attr("register")(py::cpp_function(&end_with_interpreter));
}

}  // namespace smallmind::bindings
