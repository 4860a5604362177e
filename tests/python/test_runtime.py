"""The runtime of whole jobs from Python (document C), and calls from every kind of event loop."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from live_threads import live_threads

import smallmind as sm
from smallmind import runtime

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}


@pytest.fixture(autouse=True)
def default_runtime() -> Iterator[None]:
    runtime.configure()
    yield
    runtime.configure()


class Loaders:
    """Threads that load one engine after the other, so that jobs run and wait all the time."""

    def __init__(self, path: Path, n: int) -> None:
        self.errors: list[sm.SmallMindError] = []
        self._path = path
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._load) for _ in range(n)]

    def _load(self) -> None:
        while not self._over.is_set():
            try:
                sm.Engine(self._path, n_threads=1, context_length=64).close()
            except sm.SmallMindError as error:
                self.errors.append(error)
                return

    def __enter__(self) -> Loaders:
        for thread in self._threads:
            thread.start()
        while runtime.status().n_active < len(self._threads):
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


# Options ------------------------------------------------------------------------------------------


def test_defaults() -> None:
    # C20, C22 to C25
    status = runtime.status()
    assert 1 <= status.n_threads <= len(os.sched_getaffinity(0))
    assert (status.max_queue_size, status.stack_size) == (1000, None)
    assert status.thread_name_prefix == "smallmind"
    assert (status.is_shut_down, status.n_active, status.n_queued) == (False, 0, 0)
    assert pickle.loads(pickle.dumps(status)) == status
    with pytest.raises(AttributeError):
        status.n_threads = 3  # type: ignore[misc]


def test_options_are_put_in_force(smollm2: Path) -> None:
    # C24, C25, P-14: with a stack of 256 KiB, too
    runtime.configure(
        n_threads=1, max_queue_size=7, stack_size="256KiB", thread_name_prefix="bitnet-ffi"
    )
    status = runtime.status()
    assert (status.n_threads, status.max_queue_size) == (1, 7)
    assert (status.stack_size, status.thread_name_prefix) == (256 << 10, "bitnet-ffi")
    sm.Engine(smollm2, n_threads=1).close()
    assert live_threads().count("bitnet-ffi-0") == 1
    assert runtime.status().n_completed == runtime.status().n_started_threads == 1
    runtime.configure()
    assert "bitnet-ffi-0" not in live_threads()


@pytest.mark.parametrize(
    ("preset", "field", "value"),
    [
        ("default", "max_queue_size", 1000),
        ("low_latency", "max_queue_size", 100),
        ("high_throughput", "max_queue_size", 10_000),
        ("memory_constrained", "max_queue_size", 50),
        ("complex_stack", "stack_size", 2 << 20),
        ("large_stack", "stack_size", 4 << 20),
        ("constrained_stack", "stack_size", 512 << 10),
    ],
)
def test_presets(preset: runtime.Preset, field: str, value: int) -> None:
    # C27, C28
    runtime.configure(preset=preset)
    assert getattr(runtime.status(), field) == value


def test_presets_of_threads_and_several_at_once() -> None:
    # C26
    runtime.configure(preset="cpu_bound")
    n = runtime.status().n_threads
    runtime.configure(preset=["io_bound", "low_latency", "large_stack"], max_queue_size=3)
    status = runtime.status()
    assert (status.n_threads, status.max_queue_size, status.stack_size) == (2 * n, 3, 4 << 20)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_threads": 0}, sm.InvalidArgumentError, "n_threads"),
        ({"n_threads": 129}, sm.InvalidArgumentError, "n_threads"),
        ({"n_threads": 2**40}, sm.InvalidArgumentError, "n_threads"),
        ({"n_threads": 2**70}, sm.InvalidArgumentError, "n_threads"),
        ({"n_threads": 1.5}, TypeError, "n_threads"),
        ({"n_threads": True}, TypeError, "n_threads"),
        ({"max_queue_size": 0}, sm.InvalidArgumentError, "max_queue_size"),
        ({"max_queue_size": 1_000_001}, sm.InvalidArgumentError, "max_queue_size"),
        ({"stack_size": 1000}, sm.InvalidArgumentError, "stack_size"),
        ({"stack_size": "2 parsecs"}, sm.InvalidArgumentError, "stack_size"),
        ({"stack_size": "2GiB"}, sm.InvalidArgumentError, "stack_size"),
        ({"thread_name_prefix": ""}, sm.InvalidArgumentError, "thread_name_prefix"),
        ({"thread_name_prefix": "a name too long"}, sm.InvalidArgumentError, "thread_name_prefix"),
        ({"thread_name_prefix": "é"}, sm.InvalidArgumentError, "thread_name_prefix"),
        ({"thread_name_prefix": b"a"}, TypeError, "thread_name_prefix"),
        ({"preset": "fastest"}, sm.InvalidArgumentError, "fastest"),
        ({"preset": 3}, TypeError, "int"),
        ({"preset": [3]}, TypeError, "preset"),
        ({"threads": 3}, TypeError, "n_threads"),
        ({"queue_size": 3}, TypeError, "max_queue_size"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    # C32, C41
    before = runtime.status()
    with pytest.raises(error, match=words):
        runtime.configure(**options)
    assert runtime.status() == before


def test_configuring_while_busy_is_refused(smollm2: Path) -> None:
    # C19, C20: the same options again are no change.
    runtime.configure(n_threads=1)
    with Loaders(smollm2, 3):
        runtime.configure(n_threads=1)
        with pytest.raises(sm.ThreadSafetyError) as caught:
            runtime.configure(n_threads=2)
        assert caught.value.code == "RUNTIME_BUSY"
        assert isinstance(caught.value, RuntimeError)
        assert runtime.status().n_threads == 1
    assert runtime.status().n_active == 0
    runtime.configure(n_threads=2)
    assert runtime.status().n_threads == 2


# Loading is a job ---------------------------------------------------------------------------------


def test_sixteen_threads_load_at_once(engine: sm.Engine, smollm2: Path) -> None:
    # C37: two at a time, all of them right
    runtime.configure(n_threads=2, max_queue_size=3)
    expected = engine.generate(PROMPT, **GREEDY).token_ids
    most: dict[str, int] = {"n_running": 0, "n_queued": 0, "n_active": 0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            status = runtime.status()
            for field in most:
                most[field] = max(most[field], getattr(status, field))

    def load(_: int) -> list[int]:
        with sm.Engine(smollm2, n_threads=1, context_length=64) as own:
            return own.generate(PROMPT, **GREEDY).token_ids

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(load, range(16)))
    over.set()
    watcher.join()
    assert found == [expected] * 16
    assert most["n_running"] <= 2
    assert most["n_queued"] <= 3
    assert most["n_active"] > 5  # the others waited for room
    assert runtime.status().n_active == 0


def test_a_load_that_waits_can_be_cancelled(smollm2: Path) -> None:
    # C6: while the queue is full. First come, first served: five loads come before it.
    runtime.configure(n_threads=1, max_queue_size=1)
    with Loaders(smollm2, 5), ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        with pytest.raises(sm.DeadlineError):
            sm.Engine(smollm2, cancel=sm.CancellationToken(timeout=0.05))
        assert 0.05 <= time.monotonic() - start < 0.05 + 0.15
        token = sm.CancellationToken()
        waiting = pool.submit(sm.Engine, smollm2, cancel=token)
        while runtime.status().n_active < 6:
            time.sleep(0.001)
        start = time.monotonic()
        token.cancel()
        assert isinstance(waiting.exception(5), sm.CancelledError)
        assert time.monotonic() - start < 0.15


def test_progress_comes_while_a_load_waits(smollm2: Path) -> None:
    runtime.configure(n_threads=1)
    stages: list[str] = []
    with Loaders(smollm2, 5):
        sm.Engine(smollm2, progress=lambda stage, *_: stages.append(stage)).close()
    assert stages[0] == "queued"
    assert stages[-1] == "weights"


# Shutdown -----------------------------------------------------------------------------------------


def test_shutdown_refuses_jobs_and_leaves_engines_alone(engine: sm.Engine, smollm2: Path) -> None:
    # C11, C14, C18: its threads are gone
    sm.Engine(smollm2, n_threads=1).close()
    assert runtime.shutdown()
    assert runtime.shutdown("cancel", timeout=0)
    assert runtime.status().is_shut_down
    assert not [name for name in live_threads() if name.startswith("smallmind-0")]
    with pytest.raises(sm.ThreadSafetyError, match="Failed to send job to thread pool: ") as caught:
        sm.Engine(smollm2)
    assert caught.value.code == "THREAD_SAFETY"
    assert engine.generate(PROMPT, **GREEDY).token_ids
    runtime.configure()
    assert not runtime.status().is_shut_down
    sm.Engine(smollm2, n_threads=1).close()


def test_shutdown_with_a_timeout_cancels_what_is_left(smollm2: Path) -> None:
    runtime.configure(n_threads=1, max_queue_size=2)
    with Loaders(smollm2, 5) as loaders:
        start = time.monotonic()
        assert not runtime.shutdown("drain", timeout=0.001)
        assert time.monotonic() - start < 0.5
    # One was running, two in the queue; the others had not been taken in.
    kinds = [type(error) for error in loaders.errors]
    assert kinds.count(sm.CancelledError) + kinds.count(sm.ThreadSafetyError) == 5
    assert 1 <= kinds.count(sm.CancelledError) <= 3
    assert runtime.shutdown(timeout=10)
    assert runtime.status().n_active == 0


def test_shutdown_drains_what_was_taken_in(smollm2: Path) -> None:
    # C15, C16, C17
    runtime.configure(n_threads=1, max_queue_size=100)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(sm.Engine, smollm2, n_threads=1) for _ in range(4)]
        while runtime.status().n_active < 4:
            time.sleep(0.001)
        time.sleep(0.02)  # counted first, then sent
        assert runtime.shutdown()
        assert runtime.status().n_active == 0
        for job in jobs:
            job.result(10).close()


def test_shutdown_checks_its_arguments() -> None:
    with pytest.raises(sm.InvalidArgumentError, match="mode"):
        runtime.shutdown("now")  # type: ignore[arg-type]
    for timeout in (-1, float("nan"), float("inf")):
        with pytest.raises(sm.InvalidArgumentError, match="timeout"):
            runtime.shutdown(timeout=timeout)
    for wrong in (True, "1"):
        with pytest.raises(TypeError):
            runtime.shutdown(timeout=wrong)  # type: ignore[arg-type]
    assert not runtime.status().is_shut_down


# Fork and exit ------------------------------------------------------------------------------------


def test_a_forked_child_has_a_runtime_of_its_own(smollm2: Path) -> None:
    # P-03: also while the parent's threads are busy
    runtime.configure(n_threads=1, max_queue_size=5)
    with Loaders(smollm2, 3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                own = runtime.status()
                assert (own.n_active, own.max_queue_size) == (0, 1000)
                sm.Engine(smollm2, n_threads=1).close()
                assert runtime.status().n_completed == 1
                assert runtime.shutdown(timeout=10)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    assert runtime.status().max_queue_size == 5


EXITS = {
    "idle": "sm.Engine(sys.argv[1], n_threads=1)",
    "configured": "sm.runtime.configure(n_threads=4, stack_size='1MiB')",
    "shut-down": "sm.Engine(sys.argv[1]).close(); sm.runtime.shutdown()",
    "loading": (
        "for _ in range(6):\n"
        "    threading.Thread(target=lambda: [sm.Engine(sys.argv[1]) for _ in range(99)],"
        " daemon=True).start()\n"
        "time.sleep(0.2)"
    ),
    "reporting": (
        "b = threading.Event()\n"
        "def p(*a): b.set(); time.sleep(60)\n"
        "for _ in range(3):\n"
        "    threading.Thread(target=lambda: sm.Engine(sys.argv[1], progress=p),"
        " daemon=True).start()\n"
        "b.wait()"
    ),
    "waiting": (
        "sm.runtime.configure(n_threads=1, max_queue_size=1)\n"
        "for _ in range(6):\n"
        "    threading.Thread(target=lambda: [sm.Engine(sys.argv[1]) for _ in range(99)],"
        " daemon=True).start()\n"
        "time.sleep(0.2)"
    ),
}


@pytest.mark.parametrize("name", EXITS)
def test_the_interpreter_ends_with_a_live_pool(smollm2: Path, name: str) -> None:
    # P-04
    script = (
        "import sys, threading, time\nimport smallmind as sm\n"
        + EXITS[name]
        + ("\nprint(time.monotonic(), flush=True)\nsys.exit(3)\n")
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script, str(smollm2)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert time.monotonic() - float(done.stdout) < 2.5


def test_ctrl_c_ends_the_wait_for_a_shutdown(smollm2: Path) -> None:
    # P-01
    script = """
import os, signal, sys, threading, time
import smallmind as sm
sm.runtime.configure(n_threads=1)
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in range(48):  # much more than 0.3 s, and the first end before the last begin
    threading.Thread(target=lambda: sm.Engine(sys.argv[1], n_threads=1).close()).start()
while sm.runtime.status().n_active < 16: time.sleep(0.001)
def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
start = time.monotonic()
try:
    sm.runtime.shutdown()
except KeyboardInterrupt:
    print(time.monotonic() - start < 0.3 + 0.2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(smollm2)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


# Event loops: no "runtime within a runtime" -------------------------------------------------------


def _generate(engine: sm.Engine) -> list[int]:
    return engine.generate(PROMPT, **GREEDY).token_ids


def test_blocking_calls_work_with_and_without_an_event_loop(
    engine: sm.Engine, smollm2: Path
) -> None:
    # C29, C30, C31, C45
    expected = _generate(engine)

    def load_and_generate() -> list[int]:
        with sm.Engine(smollm2, n_threads=1, context_length=64) as own:
            return _generate(own)

    async def inside_asyncio() -> list[list[int]]:
        return [
            _generate(engine),
            load_and_generate(),
            await asyncio.to_thread(load_and_generate),
        ]

    async def inside_trio() -> list[list[int]]:
        return [
            _generate(engine),
            load_and_generate(),
            await trio.to_thread.run_sync(load_and_generate),
        ]

    assert load_and_generate() == expected
    assert asyncio.run(inside_asyncio()) == [expected] * 3
    assert trio.run(inside_trio) == [expected] * 3


def test_a_worker_thread_may_start_an_event_loop_of_its_own(
    engine: sm.Engine, smollm2: Path
) -> None:
    # C31: a loop inside a thread of a loop, and a load from within another load's progress call.
    expected = _generate(engine)

    async def inner() -> list[int]:
        with await sm.Engine.aload(smollm2, n_threads=1, context_length=64) as own:
            return (await own.text_session().agenerate(PROMPT, **GREEDY)).token_ids

    async def outer() -> list[int]:
        return await asyncio.to_thread(lambda: asyncio.run(inner()))

    assert asyncio.run(outer()) == expected

    runtime.configure(n_threads=2, max_queue_size=1)
    nested: list[list[int]] = []

    def progress(*_: object) -> None:
        if not nested:
            with sm.Engine(smollm2, n_threads=1, context_length=64) as own:
                nested.append(_generate(own))

    sm.Engine(smollm2, n_threads=1, progress=progress).close()
    assert nested == [expected]
