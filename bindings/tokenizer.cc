#include "smallmind/tokenizer.h"

#include <pybind11/stl.h>

#include "classes.h"
#include "convert.h"
#include "hooks.h"
#include "smallmind/error.h"

namespace smallmind::bindings {
namespace {

using Handle = std::shared_ptr<const Tokenizer>;

Handle from_gguf(const PathArgument& path, const ProgressArgument& progress,
                 const std::optional<CancellationToken>& cancel) {
  const std::string file = path_of(path);
  Handle tokenizer;
  Hooks(progress, cancel).run([&](const CallHooks& hooks) {
    tokenizer = Tokenizer::from_gguf(file, hooks);
  });
  return tokenizer;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, const TextArgument& text, bool add_special,
                            bool parse_special, const std::vector<size_t>& literal_marks) {
  const std::string utf8 = utf8_of(text, "text");
  const GilRelease released;
  return tokenizer.encode(utf8, add_special, parse_special, literal_marks);
}

std::string decode(const Tokenizer& tokenizer, const IdsArgument& ids, bool skip_special) {
  const std::vector<int32_t> copy = ids_of(ids, "ids");
  const GilRelease released;
  return tokenizer.decode(copy, skip_special);
}

std::optional<int32_t> id_or_none(int32_t id) {
  return id >= 0 ? std::optional<int32_t>(id) : std::nullopt;
}

void check_id(const Tokenizer& tokenizer, int64_t id) {
  if (id >= 0 && id < tokenizer.n_vocab()) return;
  throw Error(ErrorKind::kInvalidArgument, "id = " + std::to_string(id) + ": must be 0 ... " +
                                               std::to_string(tokenizer.n_vocab() - 1));
}

void bind_text_methods(py::class_<Tokenizer, std::shared_ptr<Tokenizer>>& cls) {
  cls.def(
         "encode",
         [](const Tokenizer& tokenizer, const TextArgument& text, bool add_special,
            bool parse_special) { return encode(tokenizer, text, add_special, parse_special, {}); },
         py::arg("text"), py::arg("add_special").noconvert() = true,
         py::arg("parse_special").noconvert() = false,
         "The ids of a text. add_special: with the model's BOS (and EOS, where the model wants "
         "it).\n"
         "parse_special: the text of a control token becomes that token; never for text of others.")
      .def("encode_marked", &encode, py::arg("text"), py::arg("add_special").noconvert(),
           py::arg("parse_special").noconvert(), py::arg("literal_marks"),
           "The same; no control token is read across a byte offset of literal_marks.")
      .def("decode", &decode, py::arg("ids"), py::arg("skip_special").noconvert() = true,
           "The text of ids; bad UTF-8 becomes U+FFFD. skip_special leaves control tokens out.")
      .def(
          "token_bytes",
          [](const Tokenizer& tokenizer, int64_t id) {
            check_id(tokenizer, id);
            return py::bytes(tokenizer.token_bytes(static_cast<int32_t>(id)));
          },
          py::arg("id").noconvert(), "The bytes that a token stands for.");
}

}  // namespace

void bind_tokenizer(py::module_& module) {
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>> cls(
      module, "Tokenizer", "A model's vocabulary: text to ids and back. Immutable; any thread.");
  cls.def_static(
      "from_gguf",
      [](const PathArgument& path, const ProgressArgument& progress,
         const std::optional<CancellationToken>& cancel) {
        // Python has no const: the class offers const methods only.
        return std::const_pointer_cast<Tokenizer>(from_gguf(path, progress, cancel));
      },
      py::arg("path"), py::kw_only(), py::arg("progress") = py::none(),
      py::arg("cancel") = py::none(),
      "Reads the vocabulary of a GGUF file; weights are not needed.");
  bind_text_methods(cls);
  cls.def_property_readonly("n_vocab", &Tokenizer::n_vocab)
      .def_property_readonly(
          "bos_id", [](const Tokenizer& tokenizer) { return id_or_none(tokenizer.bos_id()); })
      .def_property_readonly(
          "eos_id", [](const Tokenizer& tokenizer) { return id_or_none(tokenizer.eos_id()); })
      .def_property_readonly("add_bos", &Tokenizer::add_bos)
      .def_property_readonly("control_texts", &Tokenizer::control_texts)
      .def_property_readonly(
          "chat_template",
          [](const Tokenizer& tokenizer) -> std::optional<std::string> {
            if (tokenizer.chat_template().empty()) return std::nullopt;
            return tokenizer.chat_template();
          },
          "The model's Jinja template, or None.")
      .def_property_readonly("memory_bytes", &Tokenizer::memory_bytes)
      .def(
          "is_control",
          [](const Tokenizer& tokenizer, int64_t id) {
            check_id(tokenizer, id);
            return tokenizer.is_control(static_cast<int32_t>(id));
          },
          py::arg("id").noconvert())
      .def(
          "is_end_of_generation",
          [](const Tokenizer& tokenizer, int64_t id) {
            check_id(tokenizer, id);
            return tokenizer.is_end_of_generation(static_cast<int32_t>(id));
          },
          py::arg("id").noconvert())
      .def("__len__", &Tokenizer::n_vocab)
      .def("__repr__",
           [](const Tokenizer& tokenizer) {
             return "Tokenizer(n_vocab=" + std::to_string(tokenizer.n_vocab()) + ")";
           })
      .def("__reduce_ex__", [](const Tokenizer&, int) -> AnyTuple {
        refuse_copy("Tokenizer", "open the file in each process: Tokenizer.from_gguf(path)");
      });
}

}  // namespace smallmind::bindings
