#include "smallmind/stream.h"

#include <pybind11/stl.h>

#include "classes.h"
#include "convert.h"
#include "gil.h"

namespace smallmind::bindings {
namespace {

// The stream is over: a session that was made for it goes, too. No exception may hide another.
void release(StreamHandle& self, bool close_stream) noexcept {
  const auto stream = self.stream;
  const auto session = std::exchange(self.session, nullptr);
  const bool owns = self.owns_session;
  const GilRelease released;
  try {
    if (close_stream && stream) stream->close();
    if (owns && session) session->close();
  } catch (...) {
    // A forked child: nothing of the parent's is ours to end.
  }
}

// Runs `read` on the stream; what it throws closes the stream and frees the session first.
template <class Fn>
auto reading(StreamHandle& self, const Fn& read) {
  const auto stream = self.stream;  // close() in another thread may not take it from under us
  try {
    return read(*stream);
  } catch (...) {
    self.failed = true;
    release(self, true);
    throw;
  }
}

TokenObject next(StreamHandle& self) {
  Token token;
  const bool ended = reading(self, [&](Stream& stream) {
    Stream::Status status = Stream::Status::kTimedOut;
    wait_for([&](Clock::duration max_wait) {
      status = stream.next(token, max_wait);
      return status != Stream::Status::kTimedOut;
    });
    return status == Stream::Status::kEnd;
  });
  if (!ended) return to_python(token);
  release(self, false);
  throw py::stop_iteration();
}

std::optional<TokenObject> poll(StreamHandle& self) {
  Token token;
  const auto status =
      reading(self, [&](Stream& stream) { return stream.next(token, Clock::duration::zero()); });
  if (status == Stream::Status::kToken) return to_python(token);
  if (status == Stream::Status::kTimedOut) return std::nullopt;
  release(self, false);
  PyErr_SetNone(PyExc_StopAsyncIteration);
  throw py::error_already_set();
}

bool poll_end(StreamHandle& self) {
  const bool ended = reading(self, [&](Stream& stream) {
    return stream.wait_end(Clock::duration::zero()) == Stream::Status::kEnd;
  });
  if (ended) release(self, false);
  return ended;
}

ResultObject result(StreamHandle& self) {
  reading(self, [&](Stream& stream) {
    Token token;
    Stream::Status status = Stream::Status::kToken;
    while (status != Stream::Status::kEnd) {
      wait_for([&](Clock::duration max_wait) {
        status = stream.next(token, max_wait);
        return status != Stream::Status::kTimedOut;
      });
    }
    return true;
  });
  release(self, false);
  return to_python(self.stream->result());
}

std::optional<const char*> finish_reason(const StreamHandle& self) {
  if (!self.stream->finished()) return std::nullopt;
  return finish_reason_name(self.stream->result().finish_reason);
}

}  // namespace

StreamHandle::~StreamHandle() {
  if (owns_session) release(*this, true);
  const GilRelease released;
  stream.reset();
  session.reset();
}

GenerationResult collect(const std::shared_ptr<Stream>& stream) {
  try {
    wait_for([&](Clock::duration max_wait) {
      return stream->wait_end(max_wait) == Stream::Status::kEnd;
    });
  } catch (...) {
    const GilRelease released;
    stream->close();
    throw;
  }
  return stream->result();
}

void bind_stream(py::module_& module) {
  py::class_<StreamHandle>(module, "Stream", "The reading end of a generation.")
      .def(py::init([](StreamHandle& other) {
             auto copy =
                 std::make_unique<StreamHandle>(other.stream, other.session, other.owns_session);
             other.owns_session = false;
             return copy;
           }),
           py::arg("stream"), "For subclasses: another reader of the same stream.")
      .def("__iter__", [](py::object self) { return self; })
      .def("__next__", &next)
      .def("poll", &poll, "The next token if there is one; StopAsyncIteration at the end.")
      .def("poll_end", &poll_end, "Whether the end has come; takes no tokens.")
      .def(
          "attach",
          [](StreamHandle& self, std::shared_ptr<Waker> waker, uint64_t key) {
            self.stream->attach(std::move(waker), key);
          },
          py::arg("waker"), py::arg("key"))
      .def(
          "cancel",
          [](StreamHandle& self) {
            const auto stream = self.stream;
            const GilRelease released;
            stream->cancel();
          },
          "Ends the generation from any thread; what was made can still be read.")
      .def(
          "close", [](StreamHandle& self) { release(self, true); },
          "Ends the generation, drops what was not read and frees the session. Idempotent.")
      .def("result", &result, "Reads to the end and returns the result.")
      .def("partial_result",
           [](const StreamHandle& self) { return to_python(self.stream->result()); })
      .def_property_readonly(
          "session_id", [](const StreamHandle& self) { return self.stream->session_id(); },
          "The id of the session that it belongs to.")
      .def_property_readonly("finished",
                             [](const StreamHandle& self) { return self.stream->finished(); })
      .def_property_readonly("failed", [](const StreamHandle& self) { return self.failed; })
      .def_property_readonly("finish_reason", &finish_reason,
                             "None before the end, then why the generation ended.");
}

}  // namespace smallmind::bindings
