"""How long it takes to make a session while many live."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import smallmind as sm

CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def creation_times(engine: sm.Engine, kind: str, n_live: int, n_made: int) -> list[float]:
    """Seconds of each. kind: text, or chat with a system message. Each is closed before the next
    is made, so that n_live live beside every one."""
    makers: dict[str, Callable[[], Any]] = {
        "text": engine.text_session,
        "chat": lambda: engine.chat_session("Be brief.", chat_template=CHAT_TEMPLATE),
    }
    if engine.tokenizer.chat_template is not None:
        makers["chat"] = lambda: engine.chat_session("Be brief.")
    make = makers[kind]
    live = [make() for _ in range(n_live)]
    times = []
    gc.collect()
    for _ in range(n_made):
        start = time.perf_counter()
        session = make()
        times.append(time.perf_counter() - start)
        session.close()
    for session in live:
        session.close()
    return times
