// Values across the border: Python arguments into the core's types, the core's results into the
// frozen dataclasses of smallmind.results and smallmind.file_summary. All functions REQUIRE the
// GIL.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "smallmind/engine.h"
#include "smallmind/inspect.h"
#include "smallmind/options.h"

namespace smallmind::bindings {

namespace py = pybind11;

// Python objects whose type the stubs shall name; what they really are is checked in use.
inline bool is_any(PyObject*) { return true; }
class TextArgument : public py::object {
  PYBIND11_OBJECT(TextArgument, py::object, is_any)
};
class IdsArgument : public py::object {
  PYBIND11_OBJECT(IdsArgument, py::object, is_any)
};
class PathArgument : public py::object {
  PYBIND11_OBJECT(PathArgument, py::object, is_any)
};
class ProgressArgument : public py::object {
  PYBIND11_OBJECT_DEFAULT(ProgressArgument, py::object, is_any)
};
class TokenObject : public py::object {
  PYBIND11_OBJECT(TokenObject, py::object, is_any)
};
class ResultObject : public py::object {
  PYBIND11_OBJECT(ResultObject, py::object, is_any)
};
class InfoObject : public py::object {
  PYBIND11_OBJECT(InfoObject, py::object, is_any)
};
class StatusObject : public py::object {
  PYBIND11_OBJECT(StatusObject, py::object, is_any)
};
class MemoryObject : public py::object {
  PYBIND11_OBJECT(MemoryObject, py::object, is_any)
};
class SummaryObject : public py::object {
  PYBIND11_OBJECT(SummaryObject, py::object, is_any)
};

using AnyTuple = py::typing::Tuple<py::object, py::ellipsis>;

// The UTF-8 of a str. Another type is a TypeError; a lone surrogate kInvalidArgument with its
// place.
std::string utf8_of(py::handle text, const char* name);
// A name that the caller may give: None is the empty one, "" and a NUL are kInvalidArgument.
std::string name_of(py::handle name, const char* field);
// The bytes of a str, bytes or PathLike as the file system takes them.
std::string path_of(py::handle path);
// Copies a sequence of ints, or an array of an integer type, before anything is looked at: the
// caller may change it meanwhile. bool and float are TypeErrors; a value that is no int32 is
// kInvalidArgument naming its index.
std::vector<int32_t> ids_of(py::handle ids, const char* name);
// The same for int64.
std::vector<int64_t> indices_of(py::handle indices, const char* name);
// A given option that must be at least 1; nothing gives `absent`.
int64_t positive(const std::optional<int64_t>& value, const char* name, int64_t absent);

const char* finish_reason_name(FinishReason reason);
TokenObject to_python(const Token& token);
ResultObject to_python(const GenerationResult& result);
InfoObject to_python(const EngineInfo& info);
StatusObject to_python(const EngineStatus& status);
MemoryObject to_python(const EngineMemory& memory);
SummaryObject to_python(const FileSummary& summary);

// Throws TypeError: `what` cannot be pickled or copied, and `instead` says how to do it.
[[noreturn]] void refuse_copy(const char* what, const char* instead);

}  // namespace smallmind::bindings

namespace pybind11::detail {

template <>
struct handle_type_name<smallmind::bindings::TextArgument> {
  static constexpr auto name = const_name("str");
};
template <>
struct handle_type_name<smallmind::bindings::IdsArgument> {
  static constexpr auto name = const_name("collections.abc.Sequence[int]");
};
template <>
struct handle_type_name<smallmind::bindings::PathArgument> {
  static constexpr auto name = const_name("str | bytes | os.PathLike[str]");
};
template <>
struct handle_type_name<smallmind::bindings::ProgressArgument> {
  static constexpr auto name =
      const_name("collections.abc.Callable[[str, int, int], object] | None");
};
template <>
struct handle_type_name<smallmind::bindings::TokenObject> {
  static constexpr auto name = const_name("smallmind.results.Token");
};
template <>
struct handle_type_name<smallmind::bindings::ResultObject> {
  static constexpr auto name = const_name("smallmind.results.GenerationResult");
};
template <>
struct handle_type_name<smallmind::bindings::InfoObject> {
  static constexpr auto name = const_name("smallmind.results.EngineInfo");
};
template <>
struct handle_type_name<smallmind::bindings::StatusObject> {
  static constexpr auto name = const_name("smallmind.results.EngineStatus");
};
template <>
struct handle_type_name<smallmind::bindings::MemoryObject> {
  static constexpr auto name = const_name("smallmind.results.EngineMemory");
};
template <>
struct handle_type_name<smallmind::bindings::SummaryObject> {
  static constexpr auto name = const_name("smallmind.file_summary.FileSummary");
};

}  // namespace pybind11::detail
