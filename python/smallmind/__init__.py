"""smallmind: an LLM inference engine for GGUF models on CPUs, inside the Python process.

    import smallmind as sm

    engine = sm.Engine(sm.pull("smollm2-135m-instruct"))
    for token in engine.stream("Once upon a time"):
        print(token, end="", flush=True)

One thread-safe `Engine` holds the weights; sessions on any number of threads generate at once.
"""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 12):
    # In a sub-interpreter the extension module would wait for ever; newer Pythons refuse it.
    import _xxsubinterpreters as _interpreters  # type: ignore[import-not-found,unused-ignore]

    if _interpreters.get_current() != _interpreters.get_main():
        raise ImportError("smallmind does not support sub-interpreters; use threads or processes")
    del _interpreters

from . import _core
from ._core import CancellationToken, Tokenizer
from .engine import Engine
from .errors import (
    BufferFullError,
    CancelledError,
    ContextLengthError,
    DeadlineError,
    DownloadError,
    EngineClosedError,
    ForkedProcessError,
    GrammarError,
    InferenceError,
    InvalidArgumentError,
    MemoryBudgetError,
    MissingExtraError,
    ModelFormatError,
    ModelIOError,
    ModelLimitError,
    ModelNotFoundError,
    QueueFullError,
    SessionBusyError,
    SessionClosedError,
    SmallMindError,
    TemplateError,
    ThreadSafetyError,
    UnsupportedModelError,
)
from .params import SamplingParams
from .results import (
    ChatResult,
    EngineInfo,
    EngineMemory,
    EngineStatus,
    GenerationResult,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from .session import TextSession
from .stream import TokenStream

if TYPE_CHECKING:
    from .chat import ChatSession as ChatSession
    from .chat import ChatStream as ChatStream
    from .hub import pull as pull

    __version__: str

__all__ = [
    "BufferFullError",
    "CancellationToken",
    "CancelledError",
    "ChatResult",
    "ChatSession",
    "ChatStream",
    "ContextLengthError",
    "DeadlineError",
    "DownloadError",
    "Engine",
    "EngineClosedError",
    "EngineInfo",
    "EngineMemory",
    "EngineStatus",
    "ForkedProcessError",
    "GenerationResult",
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
    "SamplingParams",
    "SessionBusyError",
    "SessionClosedError",
    "SmallMindError",
    "TemplateError",
    "TextSession",
    "ThreadSafetyError",
    "Timings",
    "Token",
    "TokenLogprob",
    "TokenStream",
    "Tokenizer",
    "UnsupportedModelError",
    "Usage",
    "pull",
]

# Ends all engines before the interpreter takes itself apart, so that no thread waits on one.
atexit.register(_core.shut_down)

# Names that cost an import, looked up when they are first used.
_LATER = {"ChatSession": "chat", "ChatStream": "chat", "pull": "hub"}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("smallmind")
    if name in _LATER:
        value = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in ("hub", "chat", "cli", "results", "errors", "runtime"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
