"""Every exception of smallmind: one hierarchy under `SmallMindError`.

Each has a `code`, a stable upper-case name to match on, and each can be pickled. Besides
`SmallMindError` most have the built-in exception that a caller who does not know smallmind would
catch: `ModelNotFoundError` is a `FileNotFoundError`, `ContextLengthError` a `ValueError`.
"""

from __future__ import annotations

__all__ = [
    "BufferFullError",
    "CancelledError",
    "ContextLengthError",
    "DeadlineError",
    "DownloadError",
    "EngineClosedError",
    "ForkedProcessError",
    "GrammarError",
    "InferenceError",
    "InvalidArgumentError",
    "MemoryBudgetError",
    "MissingExtraError",
    "ModelFormatError",
    "ModelIOError",
    "ModelLimitError",
    "ModelNotFoundError",
    "QueueFullError",
    "SessionBusyError",
    "SessionClosedError",
    "SmallMindError",
    "TemplateError",
    "ThreadSafetyError",
    "UnsupportedModelError",
]


class SmallMindError(Exception):
    """The base of all errors of smallmind. `str(error)` is the message, `error.code` the code."""

    code: str = "SMALLMIND"

    def __init__(self, message: str = "", code: str | None = None) -> None:
        super().__init__(message)  # one argument only: OSError would read a second as errno
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[type[SmallMindError], tuple[str, str]]:
        return type(self), (str(self), self.code)


class ModelNotFoundError(SmallMindError, FileNotFoundError):
    """There is no file at the path."""

    code = "MODEL_NOT_FOUND"


class ModelFormatError(SmallMindError, ValueError):
    """The file is not a well-formed model; the message names the field and the byte offset."""

    code = "MODEL_FORMAT"


class ModelLimitError(SmallMindError, ValueError):
    """The file, or its chat template, asks for more than a named limit allows."""

    code = "MODEL_LIMIT"


class UnsupportedModelError(SmallMindError, ValueError):
    """The file is well-formed, but of an architecture, type or version that is not supported."""

    code = "UNSUPPORTED_MODEL"


class ModelIOError(SmallMindError, OSError):
    """The file cannot be read."""

    code = "MODEL_IO"


class DownloadError(SmallMindError):
    """`smallmind.pull` could not fetch a model; the message says what to do."""

    code = "DOWNLOAD_FAILED"


class MissingExtraError(SmallMindError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    code = "MISSING_EXTRA"


class MemoryBudgetError(SmallMindError, MemoryError):
    """What was asked for can never fit the memory budget."""

    code = "MEMORY_BUDGET_EXCEEDED"


class ContextLengthError(SmallMindError, ValueError):
    """The prompt is longer than the context; the message has both numbers."""

    code = "CONTEXT_LENGTH"


class InvalidArgumentError(SmallMindError, ValueError):
    """A value is out of its range; the message names the argument, the value and the range."""

    code = "INVALID_ARGUMENT"


class SessionBusyError(SmallMindError, RuntimeError):
    """The session has a call or an open stream; `session.cancel()` ends it."""

    code = "SESSION_BUSY"


class SessionClosedError(SmallMindError, RuntimeError):
    """The session was closed."""

    code = "SESSION_CLOSED"


class EngineClosedError(SmallMindError, RuntimeError):
    """The engine was closed."""

    code = "ENGINE_CLOSED"


class ForkedProcessError(SmallMindError, RuntimeError):
    """The object belongs to the parent process; make a new engine in the child."""

    code = "FORKED_PROCESS"


class QueueFullError(SmallMindError):
    """The engine's queue is full."""

    code = "BACKPRESSURE_QUEUE_FULL"


class BufferFullError(SmallMindError):
    """The stream's buffer is full."""

    code = "BACKPRESSURE_BUFFER_FULL"


class CancelledError(SmallMindError):
    """The caller cancelled."""

    code = "CANCELLED_BY_CALLER"


class DeadlineError(SmallMindError, TimeoutError):
    """The timeout passed."""

    code = "CANCELLED_BY_TIMEOUT"


class ThreadSafetyError(SmallMindError, RuntimeError):
    """The job runtime cannot do this now: it is busy, shut down, or short of threads."""

    code = "THREAD_SAFETY"


class TemplateError(SmallMindError):
    """The chat template is absent, malformed, or does what templates may not do."""

    code = "TEMPLATE"


class GrammarError(SmallMindError):
    """The grammar is malformed or too large."""

    code = "GRAMMAR"


class InferenceError(SmallMindError):
    """The computation of one request failed; the engine and other requests are unharmed."""

    code = "INFERENCE_FAILED"
