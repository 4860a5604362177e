"""Ends: interpreter exit, fork, spawn, `__del__` (A37-A39, P-03, P-04, P-05)."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
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

HEAD = """
import atexit, gc, os, sys, threading, time
import smallmind as sm
e = sm.Engine(sys.argv[1], n_threads=2)
def forever(): return e.generate("a", max_tokens=8000, ignore_eos=True)
def read():
    for t in e.stream("a", max_tokens=8000, ignore_eos=True): pass
"""

EXITS = {
    "plain": ("pass", 0),
    "never-closed": ("s = e.text_session(); c = e.chat_session(); t = e.stream('a')", 0),
    "closed-twice": ("e.close(); e.close(); e.__exit__(None, None, None)", 0),
    "stream-open": ("t = e.stream('a', max_tokens=8000, ignore_eos=True); next(t)", 0),
    "chat-stream-open": ("c = e.chat_session(); t = c.stream('a', max_tokens=900); next(t)", 0),
    "sys-exit": ("t = e.stream('a', max_tokens=8000); next(t); sys.exit(7)", 7),
    "exception": ("next(e.stream('a')); raise SystemExit(3)", 3),
    "cycle": ("a = [e, e.stream('a')]; a.append(a); del a, e; gc.collect()", 0),
    "global-cycle": ("class A: pass\na = A(); a.a = a; a.e = e; a.s = e.stream('a')", 0),
    "daemon-generate": (
        "threading.Thread(target=forever, daemon=True).start(); time.sleep(0.2); sys.exit(5)",
        5,
    ),
    "daemons": (
        "[threading.Thread(target=f, daemon=True).start() for f in (forever, read) * 4]\n"
        "time.sleep(0.2)",
        0,
    ),
    "daemon-many": (
        "threading.Thread(target=lambda: e.generate_many(['a'] * 40, max_tokens=8000,\n"
        "    ignore_eos=True), daemon=True).start(); time.sleep(0.2)",
        0,
    ),
    "forks-open": ("s = e.text_session(); s.generate('a', max_tokens=2); f = s.fork()", 0),
    "daemon-load": (
        "def load():\n"
        "    while True: sm.Engine(sys.argv[1], progress=lambda *a: None)\n"
        "threading.Thread(target=load, daemon=True).start(); time.sleep(0.15)",
        0,
    ),
    "daemon-score": (
        "threading.Thread(target=lambda: e.score([7] * 4000, positions=[9]), daemon=True).start()\n"
        "time.sleep(0.1)",
        0,
    ),
    "daemon-prefill": (
        "threading.Thread(target=lambda: e.generate([7] * 4000), daemon=True).start()\n"
        "time.sleep(0.1); sys.exit(4)",
        4,
    ),
    "atexit": ("atexit.register(lambda: e.generate('a', max_tokens=1))", 0),
    "os-exit": ("next(e.stream('a')); os._exit(9)", 9),
    "del-at-exit": (
        "class A:\n"
        "    def __init__(self): self.s = e.text_session(); self.t = self.s.stream('a')\n"
        "    def __del__(self): self.t.close(); self.s.close()\n"
        "a = A()",
        0,
    ),
    "asyncio": (
        "import asyncio\n"
        "async def main():\n"
        "    t = e.stream('a', max_tokens=8000, ignore_eos=True)\n"
        "    async for x in t:\n"
        "        if x.index == 2: sys.exit(6)\n"
        "asyncio.run(main())",
        6,
    ),
}


@pytest.mark.parametrize("name", EXITS)
def test_the_interpreter_ends_as_asked(smollm2: Path, name: str) -> None:
    # P-04, P-05: the status that was asked for, silently, at once.
    body, status = EXITS[name]
    script = HEAD + body + "\n"
    for _ in range(2):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", script, str(smollm2)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
        assert time.monotonic() - start < 10  # loading and a busy machine included


def test_exit_takes_no_time(smollm2: Path) -> None:
    script = HEAD + (
        "[threading.Thread(target=f, daemon=True).start() for f in (forever, read) * 8]\n"
        "time.sleep(0.3)\nprint(time.monotonic(), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(smollm2)], capture_output=True, text=True, timeout=60
    )
    assert time.monotonic() - float(done.stdout) < 2
    assert (done.returncode, done.stderr) == (0, "")


# close and dropped references ---------------------------------------------------------------------


def in_thread(work: Callable[[], Any], errors: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_close_ends_everything_that_runs(smollm2: Path) -> None:
    # A38: every kind of call, in its own thread, has the one error.
    engine = sm.Engine(smollm2, n_threads=2)
    endless: dict[str, Any] = {"max_tokens": 5_000, "ignore_eos": True}
    chat, other_chat = engine.chat_session(), engine.chat_session()
    work: list[Callable[[], Any]] = [
        lambda: engine.generate("a", **endless),
        lambda: list(engine.stream("a", **endless)),
        lambda: engine.generate_many(["a"] * 4, **endless),
        lambda: chat.send("a", **endless),
        lambda: list(other_chat.stream("a", **endless)),
        lambda: engine.score([5] * 8_000, positions=[7_999]),
        lambda: asyncio.run(engine.text_session().agenerate("a", **endless)),
    ]
    errors: list[BaseException] = []
    threads = [in_thread(each, errors) for each in work]
    time.sleep(0.5)
    closers = [threading.Thread(target=engine.close) for _ in range(3)]
    start = time.monotonic()
    for thread in closers:
        thread.start()
    for thread in [*closers, *threads]:
        thread.join()
    assert time.monotonic() - start < 2
    assert [type(error) for error in errors] == [sm.EngineClosedError] * len(work)
    assert engine.closed
    assert chat.messages == []  # as before the call
    calls = [engine.text_session, chat.reset, lambda: chat.send("b"), lambda: engine.score([1])]
    for call in calls:
        with pytest.raises(sm.EngineClosedError):
            call()
    assert (engine.status().n_running, engine.status().kv_bytes) == (0, 0)
    chat.close()


def test_the_last_reference_may_go_anywhere(smollm2: Path) -> None:
    # P-06, A39: in a callback, in a garbage collection, in another thread, while all runs.
    endless: dict[str, Any] = {"max_tokens": 5_000, "ignore_eos": True}
    gc.collect()
    n_threads = len(os.listdir("/proc/self/task"))

    def in_callback() -> None:
        holder = [sm.Engine(smollm2, n_threads=2)]
        streams = [holder[0].stream("a", **endless)]

        def progress(*_: object) -> None:
            holder.clear()
            streams.clear()

        holder[0].score([5] * 2_000, positions=[1_999], progress=progress)
        assert not holder

    def in_collection() -> None:
        cycle: list[Any] = [sm.Engine(smollm2, n_threads=2)]
        cycle += [cycle[0].stream("a", **endless), cycle[0].text_session(), cycle]
        next(cycle[1])
        del cycle
        gc.collect()

    def in_a_thread() -> None:
        holder = [sm.Engine(smollm2, n_threads=2).stream("a", **endless)]
        next(holder[0])
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()

    for way in (in_callback, in_collection, in_a_thread):
        way()
        latest = time.monotonic() + 2
        while len(os.listdir("/proc/self/task")) > n_threads and time.monotonic() < latest:
            time.sleep(0.01)
        assert len(os.listdir("/proc/self/task")) <= n_threads, way


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit, GeneratorExit])
def test_what_a_callback_raises_ends_its_call_only(
    engine: sm.Engine, error: type[BaseException]
) -> None:
    # P-07
    beside = engine.stream("The sea", max_tokens=40, ignore_eos=True, seed=1)

    def progress(*_: object) -> None:
        raise error

    with pytest.raises(error):
        engine.score([5] * 2_000, positions=[1_999], progress=progress)
    with pytest.raises(error):
        engine.generate_many(["a"] * 5, max_tokens=500, ignore_eos=True, progress=progress)
    assert len(list(beside)) == 40
    assert_idle(engine)


def test_a_callback_may_close_the_engine(smollm2: Path) -> None:
    # P-07
    def score(engine: sm.Engine) -> None:
        engine.score([5] * 4_000, positions=[3_999], progress=lambda *_: engine.close())

    def batch(engine: sm.Engine) -> None:
        options: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}
        engine.generate_many(["a"] * 3, progress=lambda *_: engine.close(), **options)

    for call in (score, batch):
        with pytest.raises(sm.EngineClosedError):
            call(sm.Engine(smollm2, n_threads=2))


INTERRUPTED = """
import random, signal
session, chat = e.text_session(), e.chat_session()
options = dict(max_tokens=6, ignore_eos=True)
work = [
    lambda: session.generate('a', **options),
    lambda: list(session.stream('a', **options)),
    lambda: e.generate_many(['a', 'b', 'c'], **options),
    lambda: e.score([5, 6, 7]),
    lambda: chat.send('Hi', **options),
    lambda: list(chat.stream('Hi', **options)),
    lambda: session.fork().close(),
    lambda: e.text_session().generate('a', **options),
]
class Alarm(BaseException): pass
# Of an exception out of __del__ Python only reports.
sys.unraisablehook = lambda e: None if e.exc_type is Alarm else sys.__unraisablehook__(e)
is_armed = False
def interrupt(*_):
    if is_armed: raise Alarm
signal.signal(signal.SIGALRM, interrupt)
n_interrupted = 0
for i in range(400):
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, random.Random(i).uniform(0.0001, 0.05))
        work[i % len(work)]()
    except Alarm:
        n_interrupted += 1
    finally:
        is_armed = False
    session.reset()
    chat.reset()
assert n_interrupted > 40, n_interrupted
session.generate('a', **options)
chat.send('Hi', **options)
del session, chat, work
gc.collect()
time.sleep(0.2)
s = e.status()
assert (s.n_sessions, s.n_running, s.n_queued) == (0, 0, 0), s
"""


def test_a_signal_at_any_moment_leaves_engine_and_sessions_usable(smollm2: Path) -> None:
    # P-01: wherever the calls are when it comes.
    done = subprocess.run(
        [sys.executable, "-c", HEAD + INTERRUPTED, str(smollm2)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SUBINTERPRETERS = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
code = '''
try: import smallmind
except ImportError: print('refused', flush=True)
else: print('works', flush=True)
'''
for _ in range(2):
    other = interpreters.create()
    interpreters.run_string(other, code)
    interpreters.destroy(other)
print(e.generate('a', max_tokens=1, ignore_eos=True).finish_reason)
"""


def test_a_subinterpreter_is_refused_or_works(smollm2: Path) -> None:
    # P-10
    done = subprocess.run(
        [sys.executable, "-c", HEAD + SUBINTERPRETERS, str(smollm2)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.split()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 3 and set(lines[:2]) <= {"refused", "works"}, lines
    assert lines[2] == "length"


# fork ---------------------------------------------------------------------------------------------


def check_in_child(engine: sm.Engine, stream: sm.TokenStream, session: sm.TextSession) -> None:
    start = time.monotonic()
    for call in (
        lambda: engine.generate("x"),
        lambda: engine.stream("x"),
        lambda: engine.score([1]),
        engine.text_session,
        lambda: session.generate("x"),
        lambda: session.stream("x"),
        session.reset,
        lambda: next(stream),
    ):
        try:
            call()
        except sm.ForkedProcessError as error:
            assert error.code == "FORKED_PROCESS"
        else:
            raise AssertionError(call)
    stream.close()
    session.close()
    engine.close()
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_is_told_and_may_make_its_own(smollm2: Path, busy: bool) -> None:
    # P-03
    engine = sm.Engine(smollm2, n_threads=2)
    session = engine.text_session()
    stream = session.stream("a", max_tokens=2_000, ignore_eos=True)
    next(stream)
    if not busy:
        stream.cancel()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check_in_child(engine, stream, session)
            with sm.Engine(smollm2, n_threads=2) as own:
                assert own.generate("x", max_tokens=2, ignore_eos=True).finish_reason == "length"
            del stream, session, engine
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    stream.close()
    assert session.generate("b", max_tokens=2, ignore_eos=True).finish_reason == "length"
    engine.close()


def test_the_child_of_a_fork_beside_a_chat_is_told(smollm2: Path) -> None:
    # P-03: another thread is in the middle of a turn.
    engine = sm.Engine(smollm2, n_threads=2)
    chat = engine.chat_session(messages=[{"role": "user", "content": "Hi"}])
    long = {"max_tokens": 4_000, "ignore_eos": True}
    sender = threading.Thread(target=lambda: chat.send("Count", **long))
    sender.start()
    while engine.status().n_running == 0:
        time.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert len(chat.messages) == 1
            for call in (lambda: chat.send("x"), lambda: chat.stream("x"), chat.reset, chat.cancel):
                try:
                    call()
                except sm.ForkedProcessError:
                    continue
                raise AssertionError(call)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    chat.cancel()
    sender.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(chat.messages) == 3
    engine.close()


def test_a_forked_child_ends_silently(smollm2: Path) -> None:
    # The child runs Python's exit with the parent's objects in it.
    script = HEAD + (
        "t = e.stream('a', max_tokens=2000, ignore_eos=True); next(t)\n"
        "pid = os.fork()\n"
        "if pid == 0: sys.exit(4)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), next(t).index)\n"
    )
    # CPython 3.12 and newer warn of fork itself.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(smollm2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("4 1\n", "", 0)


def _ids_in_process(path: str) -> list[int]:
    with sm.Engine(path, n_threads=1) as engine:
        return engine.generate("The sea", temperature=0, max_tokens=4).token_ids


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(engine: sm.Engine, smollm2: Path, method: str) -> None:
    expected = engine.generate("The sea", temperature=0, max_tokens=4).token_ids
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(_ids_in_process, [str(smollm2)] * 2, chunksize=1) == [expected] * 2


def test_sessions_outlive_the_engine_object(smollm2: Path) -> None:
    session = sm.Engine(smollm2, n_threads=1).text_session()
    assert session.generate("a", max_tokens=2, ignore_eos=True).finish_reason == "length"
    stream = (
        sm.Engine(smollm2, n_threads=1).text_session().stream("a", max_tokens=3, ignore_eos=True)
    )
    assert [token.index for token in stream] == [0, 1, 2]
