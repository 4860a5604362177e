#include "smallmind/cancellation.h"

#include <pybind11/stl.h>

#include <vector>

#include "classes.h"
#include "convert.h"
#include "gil.h"

namespace smallmind::bindings {
namespace {

std::optional<const char*> reason_name(const CancellationToken& token) {
  switch (token.reason()) {
    case CancelReason::kCaller:
      return "cancelled";
    case CancelReason::kTimeout:
      return "timeout";
    case CancelReason::kNone:
      break;
  }
  return std::nullopt;
}

CancellationToken linked(const py::Args<CancellationToken>& tokens) {
  std::vector<CancellationToken> parents;
  for (const py::handle token : tokens) {
    if (!py::isinstance<CancellationToken>(token)) {
      throw py::type_error("linked: wants CancellationTokens, has " +
                           std::string(Py_TYPE(token.ptr())->tp_name));
    }
    parents.push_back(token.cast<CancellationToken>());
  }
  return CancellationToken::linked(parents);
}

}  // namespace

void bind_cancellation(py::module_& module) {
  py::class_<CancellationToken>(module, "CancellationToken", R"(
Ends the calls that it was given to, from any thread, at any time.

The first cause wins: `reason` is "cancelled" after `cancel()`, "timeout" after the deadline of
`timeout` or `cancel_after` passed, None before. A token does not reset.
)")
      .def(py::init([](std::optional<double> timeout) {
             return timeout ? CancellationToken::with_timeout(*timeout) : CancellationToken();
           }),
           py::arg("timeout") = py::none(), "timeout: seconds from now, None for no deadline.")
      .def_static("linked", &linked,
                  "A token that trips when any of the given ones does; cancelling it leaves them "
                  "alone.")
      .def(
          "cancel",
          [](CancellationToken& token) {
            const GilRelease released;
            token.cancel();
          },
          "Trips the token. Calls that wait on it return at once; a second cancel does nothing.")
      .def(
          "cancel_after",
          [](CancellationToken& token, double seconds) {
            const GilRelease released;
            token.cancel_after(seconds);
          },
          py::arg("seconds"), "Sets the deadline, or makes it earlier.")
      .def_property_readonly("cancelled", &CancellationToken::cancelled)
      .def_property_readonly("reason", &reason_name, "None, \"cancelled\" or \"timeout\".")
      .def("check", &CancellationToken::check, "Raises CancelledError or DeadlineError if tripped.")
      .def("__repr__",
           [](const CancellationToken& token) {
             const auto reason = reason_name(token);
             return "CancellationToken(reason=" +
                    (reason ? "'" + std::string(*reason) + "'" : std::string("None")) + ")";
           })
      .def("__reduce_ex__", [](const CancellationToken&, int) -> AnyTuple {
        refuse_copy("CancellationToken", "pass the token itself, or make one in each process");
      });
}

}  // namespace smallmind::bindings
