"""Ends: interpreter exit, fork, spawn, `__del__` (A37-A39, P-03, P-04, P-05)."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
