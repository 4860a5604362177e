#include <pybind11/stl.h>

#include "classes.h"
#include "convert.h"
#include "smallmind/options.h"

namespace smallmind::bindings {
namespace {

std::vector<std::string> stops_of(const py::typing::Tuple<py::str, py::ellipsis>& stop) {
  std::vector<std::string> out;
  for (const py::handle item : stop) {
    out.push_back(utf8_of(item, ("stop[" + std::to_string(out.size()) + "]").c_str()));
  }
  return out;
}

SamplingParams make_params(std::optional<int64_t> max_tokens, double temperature, int64_t top_k,
                           double top_p, double min_p, double repeat_penalty, int64_t repeat_last_n,
                           double presence_penalty, double frequency_penalty,
                           const py::typing::Tuple<py::str, py::ellipsis>& stop, bool ignore_eos,
                           std::vector<std::pair<int64_t, double>> logit_bias,
                           std::optional<int64_t> logprobs, std::optional<uint64_t> seed) {
  return SamplingParams{.max_tokens = max_tokens,
                        .temperature = temperature,
                        .top_k = top_k,
                        .top_p = top_p,
                        .min_p = min_p,
                        .repeat_penalty = repeat_penalty,
                        .repeat_last_n = repeat_last_n,
                        .presence_penalty = presence_penalty,
                        .frequency_penalty = frequency_penalty,
                        .stop = stops_of(stop),
                        .ignore_eos = ignore_eos,
                        .logit_bias = std::move(logit_bias),
                        .logprobs = logprobs,
                        .seed = seed};
}

}  // namespace

void bind_params(py::module_& module) {
  py::class_<SamplingParams>(module, "Params", "The core's form of smallmind.SamplingParams.")
      .def(py::init(&make_params), py::kw_only(), py::arg("max_tokens"), py::arg("temperature"),
           py::arg("top_k"), py::arg("top_p"), py::arg("min_p"), py::arg("repeat_penalty"),
           py::arg("repeat_last_n"), py::arg("presence_penalty"), py::arg("frequency_penalty"),
           py::arg("stop"), py::arg("ignore_eos"), py::arg("logit_bias"), py::arg("logprobs"),
           py::arg("seed"))
      .def("validate", &validate, py::arg("n_vocab"),
           "Raises InvalidArgumentError naming the field, its value and its range.");
}

}  // namespace smallmind::bindings
