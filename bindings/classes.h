// One function for each bound class, and the handles through which Python holds the core's objects.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "smallmind/engine.h"

namespace smallmind::bindings {

namespace py = pybind11;

// The handles' destructors run with the GIL and give it away while the core lets go: the last
// handle may have to wait for a step.

struct EngineHandle {
  explicit EngineHandle(std::shared_ptr<Engine> value) : engine(std::move(value)) {}
  ~EngineHandle();
  EngineHandle(const EngineHandle&) = delete;
  EngineHandle& operator=(const EngineHandle&) = delete;

  std::shared_ptr<Engine> engine;
};

struct SessionHandle {
  explicit SessionHandle(std::shared_ptr<Session> value) : session(std::move(value)) {}
  ~SessionHandle();
  SessionHandle(const SessionHandle&) = delete;
  SessionHandle& operator=(const SessionHandle&) = delete;

  std::shared_ptr<Session> session;
};

// The session lives at least as long as the stream; with owns_session it is closed at the end.
struct StreamHandle {
  StreamHandle(std::shared_ptr<Stream> stream_value, std::shared_ptr<Session> session_value,
               bool owns)
      : stream(std::move(stream_value)), session(std::move(session_value)), owns_session(owns) {}
  ~StreamHandle();
  StreamHandle(const StreamHandle&) = delete;
  StreamHandle& operator=(const StreamHandle&) = delete;

  std::shared_ptr<Stream> stream;
  std::shared_ptr<Session> session;
  bool owns_session;
  bool failed = false;  // an exception came out of it, Ctrl-C included
};

// Waits for the end of a stream that nobody reads, then returns its result; whatever goes wrong
// closes it first.
GenerationResult collect(const std::shared_ptr<Stream>& stream);

void bind_cancellation(py::module_& module);
void bind_engine(py::module_& module);
void bind_inspect(py::module_& module);
void bind_params(py::module_& module);
void bind_runtime(py::module_& module);
void bind_session(py::module_& module);
void bind_stream(py::module_& module);
void bind_tokenizer(py::module_& module);
void bind_waker(py::module_& module);

}  // namespace smallmind::bindings
