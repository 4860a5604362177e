"""The threads of this process, without those that have ended: the system lists a thread that was
joined for a moment longer."""

from __future__ import annotations

import time
from pathlib import Path

_IS_EXITING = 0x4  # PF_EXITING in the flags of /proc/self/task/*/stat: set before a join returns
_STEADY_S = 0.1


def live_threads() -> list[str]:
    """Their names."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if not int(rest.split()[6]) & _IS_EXITING:
            names.append(name)
    return names


def n_live_threads() -> int:
    """How many, once that is steady: Python's own join returns before the system's thread ends."""
    n, since = len(live_threads()), time.monotonic()
    while time.monotonic() - since < _STEADY_S:
        time.sleep(0.01)
        now = len(live_threads())
        if now != n:
            n, since = now, time.monotonic()
    return n
