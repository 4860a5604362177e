"""The process's threads for whole jobs, and the bounded queue in front of them.

    import smallmind as sm

    sm.runtime.configure(n_threads=2, preset="low_latency")

Loading a model is such a job: any number of threads may load at once, `n_threads` of them are
served at a time, `max_queue_size` wait in the queue, and the others wait until there is room in it.
All engines share the one runtime. Generation does not pass through it: every engine has threads of
its own.

The runtime needs no set-up; what is not configured has defaults, and its threads start with the
first job. Every function may be called from any thread, at any time, in asyncio code too. The
threads never take Python's lock. A forked child has a runtime of its own, with default options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from . import _core
from .errors import InvalidArgumentError
from .options import integer, n_bytes
from .params import spelled_out

__all__ = ["Preset", "RuntimeStatus", "configure", "shutdown", "status"]

Preset = Literal[
    "default",
    "low_latency",
    "high_throughput",
    "memory_constrained",
    "complex_stack",
    "large_stack",
    "constrained_stack",
    "cpu_bound",
    "io_bound",
]


@dataclass(frozen=True)
class RuntimeStatus:
    """The options in force, and what is going on at this moment."""

    n_threads: int
    """Jobs that run at a time."""
    max_queue_size: int
    """Jobs that wait for a thread."""
    stack_size: int | None
    """Bytes for each thread; None: the system's default."""
    thread_name_prefix: str
    is_shut_down: bool
    n_started_threads: int
    """Threads start when jobs need them."""
    n_active: int
    """Jobs in the hands of the runtime; those whose callers wait for room in the queue, too."""
    n_queued: int
    """Of these, in the queue."""
    n_running: int
    """Of these, on a thread."""
    n_completed: int
    """Since the options were last changed."""


@spelled_out
def configure(
    *,
    n_threads: int | None = None,
    max_queue_size: int | None = None,
    stack_size: int | str | None = None,
    thread_name_prefix: str | None = None,
    preset: Preset | Sequence[Preset] | None = None,
) -> None:
    """Puts these options in force; after `shutdown()`, too. The same options again do nothing.

    n_threads: 1 ... 128; None: as many as the machine allows (affinity, cgroup limits).
    max_queue_size: jobs that wait for a thread, 1 ... 1,000,000; None: 1,000.
    stack_size: for each thread, 128 KiB ... 1 GiB, bytes or a str such as "2MiB"; None: the
        system's default.
    thread_name_prefix: at most 11 printable ASCII characters, shown by debuggers and by
        /proc/self/task; None: "smallmind".
    preset: a name, or several, for what is not given otherwise. Queue: "low_latency" 100,
        "high_throughput" 10,000, "memory_constrained" 50. Stack: "complex_stack" 2 MiB,
        "large_stack" 4 MiB, "constrained_stack" 512 KiB. Threads: "cpu_bound" as many as the
        machine allows, "io_bound" twice that. "default" sets nothing.

    Raises InvalidArgumentError, and ThreadSafetyError (code RUNTIME_BUSY) while jobs are active;
    the options in force stay as they were.
    """
    if thread_name_prefix is not None and not isinstance(thread_name_prefix, str):
        kind = type(thread_name_prefix).__name__
        raise TypeError(f"thread_name_prefix: wants str, has {kind}")
    _core.configure_runtime(
        n_threads=integer("n_threads", n_threads),
        max_queue_size=integer("max_queue_size", max_queue_size),
        stack_size=n_bytes("stack_size", stack_size),
        thread_name_prefix=thread_name_prefix,
        presets=_presets(preset),
    )


def status() -> RuntimeStatus:
    """The options in force, and what is going on at this moment."""
    return RuntimeStatus(**_core.runtime_status())


@spelled_out
def shutdown(mode: Literal["drain", "cancel"] = "drain", timeout: float | None = None) -> bool:
    """Ends the runtime's threads. True when all jobs have ended.

    mode: "drain" runs the jobs that are running or in the queue; "cancel" cancels them: their
        callers get CancelledError. Callers that wait for room in the queue get ThreadSafetyError.
    timeout: seconds; what still runs then is cancelled and not waited for, and the result is False.

    Until the next `configure()` every job is refused with ThreadSafetyError; engines that are
    loaded go on. Ctrl-C ends the waiting, not the shutdown.
    """
    if mode not in ("drain", "cancel"):
        raise InvalidArgumentError(f"mode = {mode!r:.40}: must be 'drain' or 'cancel'")
    if isinstance(timeout, bool):
        raise TypeError("timeout: wants float, has bool")
    return _core.shut_down_runtime(is_cancel=mode == "cancel", timeout=timeout)


def _presets(preset: Preset | Sequence[Preset] | None) -> list[str]:
    if preset is None:
        return []
    names: list[str] = [preset] if isinstance(preset, str) else list(preset)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"preset: wants str, has {type(name).__name__}")
    return names
