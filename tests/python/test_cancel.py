"""Control: cancel, timeout and Ctrl-C, from anywhere, in load, prefill and decode.

A27-A33, A35, A36, B17-B19, B22, B23, B25, B26, B28, P-01.

The bound is 100 ms from the cancel to the caller's return.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_idle

import smallmind as sm

PROMPT = "Once upon a time"
LONG = [5 + i % 1_000 for i in range(4_000)]
BOUND = 0.1
ENDLESS: dict[str, Any] = {"max_tokens": 2_000, "ignore_eos": True}


def cancel_soon(cancel: Callable[[], Any], after: float) -> list[float]:
    """Calls it from another thread; the list gets the time of the call."""
    at: list[float] = []

    def work() -> None:
        time.sleep(after)
        at.append(time.monotonic())
        cancel()

    threading.Thread(target=work).start()
    return at


# The token ----------------------------------------------------------------------------------------


def test_the_first_cause_wins() -> None:
    token = sm.CancellationToken()
    assert (token.cancelled, token.reason) == (False, None)
    token.check()
    token.cancel()
    token.cancel_after(0)
    assert (token.cancelled, token.reason) == (True, "cancelled")
    with pytest.raises(sm.CancelledError) as caught:
        token.check()
    assert caught.value.code == "CANCELLED_BY_CALLER"
    timed = sm.CancellationToken(timeout=0.02)
    assert not timed.cancelled
    time.sleep(0.03)
    timed.cancel()
    assert timed.reason == "timeout"
    with pytest.raises(sm.DeadlineError) as late:
        timed.check()
    assert late.value.code == "CANCELLED_BY_TIMEOUT"


def test_linked_tokens() -> None:
    # B26
    parents = [sm.CancellationToken(), sm.CancellationToken()]
    child = sm.CancellationToken.linked(*parents)
    grandchild = sm.CancellationToken.linked(child)
    sibling = sm.CancellationToken.linked(*parents)
    child.cancel()
    assert grandchild.cancelled
    assert not any(token.cancelled for token in (*parents, sibling))
    parents[1].cancel_after(0)
    assert sibling.reason == "timeout"
    with pytest.raises(TypeError):
        sm.CancellationToken.linked(parents[0], 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_token_times_are_checked(value: float) -> None:
    with pytest.raises(sm.InvalidArgumentError):
        sm.CancellationToken(timeout=value)
    with pytest.raises(sm.InvalidArgumentError):
        sm.CancellationToken().cancel_after(value)


# Load and score raise -----------------------------------------------------------------------------


def test_cancel_during_load(smollm2: Path) -> None:
    # A33, B25
    for after in (0.0, 0.02, 0.06):
        token = sm.CancellationToken()
        at = cancel_soon(token.cancel, after)
        try:
            sm.Engine(smollm2, cancel=token).close()
        except sm.CancelledError:
            assert time.monotonic() - at[0] < BOUND
    token.cancel()
    start = time.monotonic()
    with pytest.raises(sm.CancelledError):
        sm.Engine(smollm2, cancel=token)
    with pytest.raises(sm.CancelledError):
        sm.Tokenizer.from_gguf(smollm2, cancel=token)
    with pytest.raises(sm.DeadlineError):
        sm.Engine(smollm2, cancel=sm.CancellationToken(timeout=0))
    assert time.monotonic() - start < BOUND


def test_cancel_in_the_middle_of_a_load(smollm2: Path) -> None:
    token = sm.CancellationToken()
    at: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if not at:  # the load takes two or three calls: wait for no later one
            at.append(time.monotonic())
            token.cancel()

    with pytest.raises(sm.CancelledError):
        sm.Engine(smollm2, cancel=token, progress=progress)
    assert time.monotonic() - at[0] < BOUND


def test_cancel_during_score(engine: sm.Engine) -> None:
    token = sm.CancellationToken()
    at = cancel_soon(token.cancel, 0.1)
    with pytest.raises(sm.CancelledError):
        engine.score(LONG, positions=[3_999], cancel=token)
    # The call returns when the engine no longer writes into the array: one step.
    assert time.monotonic() - at[0] < 4 * BOUND
    with pytest.raises(sm.DeadlineError):
        engine.score(LONG, positions=[3_999], cancel=sm.CancellationToken(timeout=0.05))
    assert_idle(engine)


# Generate and stream return -----------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["decode", "prefill"])
@pytest.mark.parametrize("way", ["token", "session", "close", "timeout", "token-timeout"])
def test_generate_returns_at_once(engine: sm.Engine, prompt: Any, way: str) -> None:
    # A29, A32, B22
    session = engine.text_session()
    token = sm.CancellationToken()
    options: dict[str, Any] = {**ENDLESS, "cancel": token}
    start = time.monotonic()
    at = [start + 0.15]
    if way == "timeout":
        options["timeout"] = 0.15
    elif way == "token-timeout":
        token.cancel_after(0.15)
    else:
        act = {"token": token.cancel, "session": session.cancel, "close": session.close}[way]
        at = cancel_soon(act, 0.15)
    result = session.generate(prompt, **options)
    late = time.monotonic() - at[0]
    assert late < BOUND
    by_clock = way.endswith("timeout")
    assert result.finish_reason == ("timeout" if by_clock else "cancelled")
    assert result.code == ("CANCELLED_BY_TIMEOUT" if by_clock else "CANCELLED_BY_CALLER")
    with pytest.raises(sm.DeadlineError if by_clock else sm.CancelledError):
        result.check()
    assert (len(result.token_ids) > 0) == (prompt is PROMPT)
    assert result.text == engine.tokenizer.decode(result.token_ids)
    session.close()
    assert_idle(engine)


@pytest.mark.parametrize("way", ["token", "stream", "session", "timeout"])
def test_stream_ends_at_once_and_frees_the_session(engine: sm.Engine, way: str) -> None:
    # A30, A31, B23: from inside the loop.
    session = engine.text_session()
    token = sm.CancellationToken()
    stream = session.stream(
        PROMPT, **ENDLESS, cancel=token, timeout=0.2 if way == "timeout" else None
    )
    acts: dict[str, Callable[[], Any]] = {
        "token": token.cancel,
        "stream": stream.cancel,
        "session": session.cancel,
        "timeout": lambda: time.sleep(0.25),
    }
    tokens = []
    at = 0.0
    for piece in stream:
        tokens.append(piece)
        if piece.index == 2:
            acts[way]()
            at = time.monotonic()
    assert time.monotonic() - at < BOUND
    assert stream.finish_reason == ("timeout" if way == "timeout" else "cancelled")
    assert "".join(map(str, tokens)) == stream.result().text
    assert [t.id for t in tokens] == stream.result().token_ids
    result = session.generate(" and", max_tokens=2)
    assert result.finish_reason == "length"
    assert session.token_ids[4 : 4 + len(tokens)] == [t.id for t in tokens]


def test_cancelled_before_it_starts(engine: sm.Engine) -> None:
    token = sm.CancellationToken()
    token.cancel()
    result = engine.generate(PROMPT, cancel=token)
    assert (result.token_ids, result.finish_reason) == ([], "cancelled")
    assert list(engine.stream(PROMPT, cancel=token)) == []
    assert engine.generate(PROMPT, timeout=1e-9).finish_reason == "timeout"


def test_one_token_ends_many_calls(engine: sm.Engine) -> None:
    token = sm.CancellationToken()
    results: list[sm.GenerationResult] = []

    def work() -> None:
        results.append(engine.generate(PROMPT, **ENDLESS, cancel=token))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    start = time.monotonic()
    token.cancel()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 2 * BOUND
    assert [result.finish_reason for result in results] == ["cancelled"] * 8


def test_dropping_the_stream_ends_the_work(engine: sm.Engine) -> None:
    # A39
    session = engine.text_session()
    for _ in session.stream(PROMPT, **ENDLESS):
        break
    assert session.generate("x", max_tokens=1).usage.completion_tokens == 1
    stream = engine.stream(PROMPT, **ENDLESS)
    next(stream)
    del stream
    del session
    gc.collect()
    assert_idle(engine)


def test_an_exception_in_with_ends_the_work(engine: sm.Engine) -> None:
    session = engine.text_session()
    with pytest.raises(ZeroDivisionError), session.stream(PROMPT, **ENDLESS) as stream:
        next(stream)
        raise ZeroDivisionError
    assert stream.finish_reason == "cancelled"
    assert session.generate("x", max_tokens=1).usage.completion_tokens == 1


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def test_memory_comes_back_after_twenty_cancels(engine: sm.Engine) -> None:
    # B28: prefill of 4,000 tokens and decode, cancelled; then as before, but for the pages that the
    # engine keeps for their prefixes, says so, and bounds.
    def used_kib() -> int:
        return resident_kib() - engine.status().kv_bytes // 1024

    def cancelled(prompt: Any, after: float) -> None:
        token = sm.CancellationToken(timeout=after)
        with engine.text_session() as session:
            result = session.generate(prompt, **ENDLESS, cancel=token)
            assert result.finish_reason == "timeout"

    cancelled(LONG, 0.2)
    cancelled(PROMPT, 0.1)
    assert_idle(engine, n_kv_pages=0)
    gc.collect()
    before = used_kib()
    sessions = engine.status().n_sessions
    for i in range(10):
        # Each begins otherwise: what is kept of one is of no use to the next, and is bounded.
        cancelled([1_010 + i, *LONG[1:]], 0.05 + 0.02 * i)
        cancelled(PROMPT, 0.05)
    assert_idle(engine, n_kv_pages=0)
    gc.collect()
    assert engine.status().n_sessions == sessions
    assert used_kib() - before <= 2_048
    assert engine.status().n_kv_pages == 0
    assert engine.status().kv_bytes <= 72 << 20  # 64 MiB of prefixes, 8 MiB at hand


# Ctrl-C -------------------------------------------------------------------------------------------

CTRL_C = """
import sys, time, smallmind as sm
path, what = sys.argv[1:]
kept = {}
e = None if what == "load" else sm.Engine(path)
s = None if e is None else e.text_session()
work = {
    "load": lambda: [sm.Engine(path).close() for _ in range(1000)],
    "score": lambda: [e.score([7] * 4000, positions=[3999]) for _ in range(100)],
    "prefill": lambda: s.generate([7] * 4000, max_tokens=2000, ignore_eos=True),
    "decode": lambda: s.generate("a", max_tokens=4000, ignore_eos=True),
    "stream": lambda: [kept.update(t=t) for t in s.stream("a", max_tokens=4000, ignore_eos=True)],
    "stalled": lambda: next(s.stream([7] * 4000, max_tokens=2000)),
    "close": lambda: [[sm.Engine(path).close()] for _ in range(1000)],
    "send": lambda: e.chat_session().send("a" , max_tokens=4000, ignore_eos=True),
}[what]
print("ready", flush=True)
try:
    work()
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
else:
    sys.exit("no KeyboardInterrupt")
if e is not None:
    if not s.token_ids: s.generate("b", max_tokens=1)
    s.reset()
    assert s.generate("b", max_tokens=2, temperature=0, ignore_eos=True).finish_reason == "length"
    e.close()
print("usable", flush=True)
"""


@pytest.mark.parametrize(
    "what", ["load", "score", "prefill", "decode", "stream", "stalled", "close", "send"]
)
def test_ctrl_c_is_an_exception_within_the_bound(smollm2: Path, what: str) -> None:
    # P-01
    child = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(smollm2), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        sent = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        out, error = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 0, error
    lines = out.split()
    # A score ends with the running step, all else at once.
    assert float(lines[0]) - sent < (4 * BOUND if what == "score" else BOUND), lines
    assert lines[1] == "usable"


def test_ctrl_c_reaches_python_while_other_threads_generate(smollm2: Path) -> None:
    script = (
        "import threading, time, sys, smallmind as sm\n"
        f"e = sm.Engine({str(smollm2)!r})\n"
        "n = []\n"
        "def work(): n.append(len(e.generate('a', max_tokens=30, ignore_eos=True).token_ids))\n"
        "ts = [threading.Thread(target=work) for _ in range(3)]\n"
        "[t.start() for t in ts]\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    for t in e.stream('b', max_tokens=4000, ignore_eos=True): pass\n"
        "except KeyboardInterrupt: print('caught', flush=True)\n"
        "[t.join() for t in ts]\n"
        "print(n == [30] * 3)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.kill(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert out.split() == ["caught", "True"]
    assert child.returncode == 0
