#include "smallmind/session.h"

#include <pybind11/stl.h>

#include "classes.h"
#include "convert.h"
#include "gil.h"

namespace smallmind::bindings {
namespace {

RequestOptions request_options(const std::optional<CancellationToken>& cancel,
                               const std::optional<double>& timeout, bool collect_only) {
  return RequestOptions{.cancel = cancel, .timeout_s = timeout, .collect_only = collect_only};
}

std::shared_ptr<Stream> start_prompt(const SessionHandle& self, const py::object& prompt,
                                     const SamplingParams& params, const RequestOptions& options) {
  const auto session = self.session;
  if (PyUnicode_Check(prompt.ptr())) {
    const std::string text = utf8_of(prompt, "prompt");
    const GilRelease released;
    return session->start_text(text, params, options);
  }
  const std::vector<int32_t> ids = ids_of(prompt, "prompt");
  const GilRelease released;
  return session->start_ids(ids, params, options);
}

std::shared_ptr<Stream> start_context(const SessionHandle& self, const py::object& ids,
                                      const SamplingParams& params, const RequestOptions& options) {
  const auto session = self.session;
  const std::vector<int32_t> copy = ids_of(ids, "ids");
  const GilRelease released;
  return session->start_context(copy, params, options);
}

using Start = std::shared_ptr<Stream> (*)(const SessionHandle&, const py::object&,
                                          const SamplingParams&, const RequestOptions&);

// The two ways to use a start function: read its stream, or wait for the result.
template <Start kStart>
void bind_start(py::class_<SessionHandle>& cls, const char* start_name, const char* collect_name) {
  cls.def(
      start_name,
      [](const SessionHandle& self, const py::object& input, const SamplingParams& params,
         const std::optional<CancellationToken>& cancel, const std::optional<double>& timeout,
         bool collect_only, bool owns_session) {
        auto stream = kStart(self, input, params, request_options(cancel, timeout, collect_only));
        return std::make_unique<StreamHandle>(std::move(stream), self.session, owns_session);
      },
      py::arg("input"), py::arg("params"), py::arg("cancel"), py::arg("timeout"), py::kw_only(),
      py::arg("collect_only") = false, py::arg("owns_session") = false);
  cls.def(
      collect_name,
      [](const SessionHandle& self, const py::object& input, const SamplingParams& params,
         const std::optional<CancellationToken>& cancel, const std::optional<double>& timeout) {
        return to_python(
            collect(kStart(self, input, params, request_options(cancel, timeout, true))));
      },
      py::arg("input"), py::arg("params"), py::arg("cancel"), py::arg("timeout"));
}

std::unique_ptr<SessionHandle> fork(const SessionHandle& self, const py::object& id) {
  const std::string name = name_of(id, "session_id");
  const auto session = self.session;
  const GilRelease released;
  return std::make_unique<SessionHandle>(session->fork(name));
}

template <void (Session::*kMethod)()>
void without_gil(SessionHandle& self) {
  const auto session = self.session;
  const GilRelease released;
  (session.get()->*kMethod)();
}

}  // namespace

SessionHandle::~SessionHandle() {
  const GilRelease released;
  session.reset();
}

void bind_session(py::module_& module) {
  py::class_<SessionHandle> cls(module, "Session", "One growing context; one call at a time.");
  bind_start<start_prompt>(cls, "start", "generate");
  bind_start<start_context>(cls, "start_context", "generate_context");
  cls.def("cancel", &without_gil<&Session::cancel>)
      .def("reset", &without_gil<&Session::reset>)
      .def("close", &without_gil<&Session::close>)
      .def("fork", &fork, py::arg("session_id"))
      .def_property_readonly("closed",
                             [](const SessionHandle& self) { return self.session->closed(); })
      .def_property_readonly("busy", [](const SessionHandle& self) { return self.session->busy(); })
      .def_property_readonly("token_ids",
                             [](const SessionHandle& self) { return self.session->token_ids(); })
      .def_property_readonly("id", [](const SessionHandle& self) { return self.session->id(); })
      .def("__len__", [](const SessionHandle& self) { return self.session->size(); });
}

}  // namespace smallmind::bindings
