"""How soon a caller who cancels is back, and his pages, while other sessions run.

Used by the tests of control and by tests/bench/control.py.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import ENDLESS, ids_of, wait_until

import smallmind as sm

PLACES = ("prefill", "decode", "queue")
WAYS = ("token", "session", "stream", "close", "timeout")
N_OTHERS = 15
N_OTHER_TOKENS = 500
LONG = 6_000
TIMEOUT_S = 1.0
PAGES_HELD = 24


@dataclass(frozen=True)
class Cancelled:
    back_s: float  # from the cancel to the caller's return
    n_tokens: int
    finish_reason: str


def limits(kv_bytes_per_token: int, n_long: int = LONG) -> dict[str, Any]:
    """Room for the others and for a long prompt or two: soon one waits in the queue."""
    room = (n_long + 1_000) * 3 // 2 + N_OTHERS * (N_OTHER_TOKENS + 100)
    return {"kv_limit": room * kv_bytes_per_token, "context_length": n_long + 1_000}


_numbers = itertools.count()


def cancel_one(engine: sm.Engine, place: str, way: str, n_long: int = LONG) -> Cancelled:
    """Starts a request, waits until it is at its place, and ends it in one of the ways.
    REQUIRES: N_OTHERS requests run all the while."""
    salt = next(_numbers)
    n_vocab = engine.info.n_vocab
    n_prompt = 20 if place == "decode" else n_long
    ids = ids_of(n_prompt, f"cancelled {salt}", n_vocab)
    token = sm.CancellationToken()
    options: dict[str, Any] = {**ENDLESS, "max_tokens": 500, "cancel": token}
    # Who was cancelled before is gone, and the others run.
    wait_until(lambda: engine.status().n_running == N_OTHERS, "only the others run")
    with engine.text_session() as session:
        blockers = fill(engine, salt, n_long) if place == "queue" else []
        before = engine.status()
        start = time.monotonic()
        timeout = TIMEOUT_S if way == "timeout" else None
        stream = session.stream(ids, timeout=timeout, **options)
        _reach(engine, place, before, stream)
        acts: dict[str, Callable[[], None]] = {
            "token": token.cancel,
            "session": session.cancel,
            "stream": stream.cancel,
            "close": session.close,
            "timeout": lambda: None,
        }
        done: list[float] = []
        reader = threading.Thread(target=lambda: (stream.result(), done.append(time.monotonic())))
        reader.start()
        time.sleep(0.01)  # the reader waits by now
        at = start + TIMEOUT_S if way == "timeout" else time.monotonic()
        acts[way]()
        reader.join()
        for blocker in blockers:
            blocker.close()
        result = stream.result()
    return Cancelled(done[0] - at, len(result.token_ids), result.finish_reason)


def fill(engine: sm.Engine, salt: int, n_long: int) -> list[Any]:
    """Long requests until one waits in the queue."""
    blockers = []
    for i in range(16):
        ids = ids_of(n_long, f"blocker {salt} {i}", engine.info.n_vocab)
        blockers.append(engine.stream(ids, **{**ENDLESS, "max_tokens": 500}))
        time.sleep(0.05)  # some steps: it is admitted, or waits
        if engine.status().n_queued > 0:
            return blockers
    raise AssertionError(f"nothing waits in the queue: {engine.status()}")


def _reach(engine: sm.Engine, place: str, before: sm.EngineStatus, stream: Any) -> None:
    if place == "decode":
        next(stream, None)
    elif place == "prefill":
        wait_until(lambda: engine.status().n_running > before.n_running, "it runs")
    else:
        wait_until(lambda: engine.status().n_queued > before.n_queued, "it waits in the queue")


def steps_until_pages_are_back(engine: sm.Engine, n_long: int = LONG) -> int:
    """Steps from the close of a session amid its prefill to the return of its pages; those of
    others change by less than a page a step."""
    ids = ids_of(n_long, f"pages {next(_numbers)}", engine.info.n_vocab)
    before = engine.status().n_computed_tokens
    with engine.text_session() as session:
        stream = session.stream(ids, **{**ENDLESS, "max_tokens": 500})
        enough = before + PAGES_HELD * 32
        wait_until(lambda: engine.status().n_computed_tokens > enough, "it holds pages", 60)
        stream.cancel()
        at = engine.status()
        session.close()
        while (status := engine.status()).n_kv_pages > at.n_kv_pages - PAGES_HELD * 2 // 3:
            if status.n_steps > at.n_steps + 50:
                raise AssertionError(f"pages are held for 50 steps: {at}, {status}")
        return status.n_steps - at.n_steps


_CTRL_C = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
sys.path.insert(0, sys.argv[3])
import cancelling, smallmind as sm
from load import ENDLESS, busy, ids_of
path, place = sys.argv[1:3]
with sm.Engine(path) as engine:
    options = cancelling.limits(engine.info.kv_bytes_per_token)
engine = sm.Engine(path, n_threads=2, **options)
n_prompt = 20 if place == "decode" else cancelling.LONG
with busy(engine, cancelling.N_OTHERS, max_tokens=cancelling.N_OTHER_TOKENS):
    blockers = cancelling.fill(engine, 0, cancelling.LONG) if place == "queue" else []
    print("ready", flush=True)
    try:
        ids = ids_of(n_prompt, "x", engine.info.n_vocab)
        engine.generate(ids, **{**ENDLESS, "max_tokens": 500})
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    else:
        sys.exit("no KeyboardInterrupt")
    for blocker in blockers:
        blocker.close()
    result = engine.generate([5, 6], max_tokens=2, temperature=0, ignore_eos=True)
    print(result.finish_reason, flush=True)
engine.close()
"""


def ctrl_c(model: Path, place: str) -> float:
    """Seconds from the signal to the exception, in a process whose other threads generate; the
    engine must be usable then."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CTRL_C, str(model), place, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        if child.stdout.readline() == "ready\n":
            time.sleep(0.3)
        sent = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        out, error = child.communicate(timeout=120)
    finally:
        child.kill()
    lines = out.split()
    if child.returncode != 0 or lines[1:] != ["length"]:
        raise AssertionError(f"ended with {child.returncode}: {out} {error}")
    return float(lines[0]) - sent
