"""Limits on queues, buffers and time: full ones say so at once, and nobody pays for another.

B15-B17, B19-B21, B26, B27, hazards L-01, L-03 to L-06; `max_queue_depth`,
`max_buffered_tokens`, `on_full`, `request_timeout`, `fairness_key`.
"""

from __future__ import annotations

import pickle
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_idle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from fairness_load import quiet_latencies
from load import ENDLESS, ids_of, percentile, together, wait_until
from mix_runs import tiny_model

import smallmind as sm

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 6}
AT_ONCE_S = 0.05
N_HOG, CONTEXT = 20, 40_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"), "llama")


class Hog:
    """A request that all pages are promised to, and that runs for many seconds."""

    def __init__(self, engine: sm.Engine) -> None:
        self._engine = engine
        self._token = sm.CancellationToken()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: engine.status().n_computed_tokens == N_HOG, "the hog runs")

    def _run(self) -> None:
        ids = ids_of(N_HOG, "hog")
        self.result = self._engine.generate(
            ids, cancel=self._token, **{**ENDLESS, "max_tokens": CONTEXT - 2 * N_HOG}
        )

    def close(self) -> None:
        self._token.cancel()
        self._thread.join()


@contextmanager
def full_engine(folder: Path, **options: Any) -> Iterator[tuple[sm.Engine, Hog]]:
    """An engine without room for a second request: it waits in the queue."""
    model = tiny_model(folder, "llama", context_length=CONTEXT)
    with sm.Engine(model, n_threads=1) as probe:
        limit = CONTEXT * probe.info.kv_bytes_per_token
    with sm.Engine(model, n_threads=2, kv_limit=limit, **options) as engine:
        hog = Hog(engine)
        try:
            yield engine, hog
        finally:
            hog.close()


def wait_in_queue(engine: sm.Engine, n: int) -> None:
    """Until they wait for room: the engine has looked at them in a step, and found none."""
    wait_until(lambda: engine.status().n_queued == n, f"{n} wait")
    time.sleep(0.05)
    assert engine.status().n_queued == n


# The queue ----------------------------------------------------------------------------------------


def test_a_full_queue_refuses_at_once_and_goes_on(tmp_path: Path) -> None:
    # B16, B21, L-01
    with full_engine(tmp_path, max_queue_depth=2) as (engine, hog):
        queued = [engine.stream(ids_of(50, i), **GREEDY) for i in range(2)]
        wait_in_queue(engine, 2)
        session = engine.text_session()
        seconds = []
        for i in range(20):
            start = time.perf_counter()
            with pytest.raises(sm.QueueFullError) as caught:
                session.generate(ids_of(50, f"late {i}"), **GREEDY)
            seconds.append(time.perf_counter() - start)
        assert statistics.median(seconds) < AT_ONCE_S, seconds
        assert caught.value.code == "BACKPRESSURE_QUEUE_FULL"
        assert "2" in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).code == caught.value.code
        assert len(session) == 0  # as it was before
        with pytest.raises(sm.QueueFullError):
            engine.stream([5], **GREEDY)
        assert engine.status().n_queued == 2
        hog.close()
        assert [stream.result().finish_reason for stream in queued] == ["length"] * 2
        assert session.generate(ids_of(50, "now"), **GREEDY).finish_reason == "length"


def test_a_chat_that_is_refused_is_as_before(tmp_path: Path) -> None:
    with full_engine(tmp_path, max_queue_depth=1) as (engine, _):
        waiting = engine.stream([5, 6], **{**GREEDY, "max_tokens": 100})
        wait_in_queue(engine, 1)
        with engine.chat_session() as chat:
            with pytest.raises(sm.QueueFullError):
                chat.send("Hello", **GREEDY)
            assert chat.messages == []
        waiting.cancel()


def test_a_batch_waits_for_its_own_queue(model: Path) -> None:
    # Its own prompts fill the queue; that is no failure.
    with sm.Engine(model, n_threads=2, max_queue_depth=2) as engine:
        prompts = [ids_of(20 + i, i) for i in range(40)]
        results = engine.generate_many(prompts, **GREEDY)
        alone = [engine.generate(prompt, **GREEDY).token_ids for prompt in prompts]
        assert [result.token_ids for result in results] == alone


def test_the_queue_has_no_limit_unless_one_is_given(tmp_path: Path) -> None:
    # B79
    with full_engine(tmp_path) as (engine, hog):
        queued = [engine.stream(ids_of(30, i), **GREEDY) for i in range(200)]
        wait_in_queue(engine, 200)
        hog.close()
        assert all(stream.result().finish_reason == "length" for stream in queued)
        assert_idle(engine)


# Deadlines ----------------------------------------------------------------------------------------


def test_a_deadline_in_the_queue_ends_what_never_started(tmp_path: Path) -> None:
    # B17, B19, L-04
    with full_engine(tmp_path) as (engine, _):
        start = time.monotonic()
        result = engine.generate(ids_of(60, "late"), timeout=0.2, **GREEDY)
        assert 0.2 <= time.monotonic() - start < 0.2 + 4 * AT_ONCE_S
        assert (result.token_ids, result.finish_reason) == ([], "timeout")
        assert result.code == "CANCELLED_BY_TIMEOUT"
        assert engine.status().n_computed_tokens == N_HOG
        wait_until(lambda: engine.status().n_queued == 0, "the queue is empty")


def test_the_engines_deadline_is_every_requests(tmp_path: Path) -> None:
    # B17, B26: in the queue and in decode; the earlier of two wins, and the causes stay apart.
    with full_engine(tmp_path, request_timeout=0.4) as (engine, hog):
        start = time.monotonic()
        # The hog's deadline is a moment before: what is left is too short for so many tokens.
        queued = engine.generate(ids_of(20, "queued"), **{**ENDLESS, "max_tokens": 30_000})
        assert 0.4 <= time.monotonic() - start < 0.4 + 4 * AT_ONCE_S
        assert queued.finish_reason == "timeout" and queued.timings.queue_s > 0.2
        hog.close()
        assert hog.result.finish_reason == "timeout" and len(hog.result.token_ids) > 0
        with pytest.raises(sm.DeadlineError):
            queued.check()
        running = engine.stream(ids_of(20, "running"), **{**ENDLESS, "max_tokens": 400})
        token = sm.CancellationToken()
        cancelled = engine.stream([5], cancel=token, **{**ENDLESS, "max_tokens": 400})
        token.cancel()
        shorter = engine.generate([5, 7], timeout=0.01, **{**ENDLESS, "max_tokens": 30_000})
        assert cancelled.result().finish_reason == "cancelled"
        assert shorter.finish_reason == "timeout"
        first = next(running)
        time.sleep(0.5)
        rest = running.result()
        assert rest.finish_reason == "timeout" and rest.token_ids[0] == first.id
        # What is done in time ends as ever.
        assert engine.generate([5, 8], timeout=60, **GREEDY).finish_reason == "length"


# Buffers ------------------------------------------------------------------------------------------


def test_a_reader_that_is_behind_pauses_its_own_stream(model: Path) -> None:
    # B15: the default.
    with sm.Engine(model, n_threads=2, max_buffered_tokens=4) as engine:
        ids = ids_of(20, "pause")
        expected = engine.generate(ids, **{**GREEDY, "max_tokens": 60}).token_ids
        with engine.stream(ids, **{**GREEDY, "max_tokens": 60}) as stream:
            seen = [next(stream).id]
            time.sleep(0.2)
            status = engine.status()
            time.sleep(0.2)
            # No step, and no token, was made for nobody.
            assert engine.status().n_generated_tokens == status.n_generated_tokens
            assert status.n_running == 1
            seen += [token.id for token in stream]
        assert seen == expected
        # Who asks for the whole has no buffer to fill.
        assert engine.stream(ids, **{**GREEDY, "max_tokens": 60}).result().token_ids == expected


def test_a_pause_with_a_deadline_ends(model: Path) -> None:
    with sm.Engine(model, n_threads=2, max_buffered_tokens=4) as engine:
        stream = engine.stream([5], timeout=0.3, **{**ENDLESS, "max_tokens": 500})
        next(stream)
        time.sleep(0.4)
        assert engine.status().n_running == 0
        rest = list(stream)
        assert 3 <= len(rest) <= 5
        assert stream.finish_reason == "timeout"


def test_a_full_buffer_may_be_an_error_after_its_tokens(model: Path) -> None:
    # B15, B20, B27
    with sm.Engine(model, n_threads=2, max_buffered_tokens=4, on_full="error") as engine:
        ids = ids_of(20, "error")
        expected = engine.generate(ids, **{**GREEDY, "max_tokens": 60}).token_ids
        with engine.text_session() as session:
            stream = session.stream(ids, **{**GREEDY, "max_tokens": 60})
            assert_idle(engine)
            seen = []
            with pytest.raises(sm.BufferFullError) as caught:
                for token in stream:
                    seen.append(token.id)
            assert caught.value.code == "BACKPRESSURE_BUFFER_FULL"
            assert seen == expected[: len(seen)] and 4 <= len(seen) <= 5
            with pytest.raises(sm.BufferFullError):
                stream.result()
            # After a failure the session is as before the call.
            assert len(session) == 0
            again = session.generate(ids, **{**GREEDY, "max_tokens": 60})
            assert again.token_ids == expected
        keen = [t.id for t in engine.stream(ids, **{**GREEDY, "max_tokens": 3})]
        assert keen == expected[:3]


def test_a_slow_reader_slows_nobody_else(model: Path) -> None:
    # L-06: one reads a token a second and then leaves; eight others have their tokens as soon.
    def eight(engine: sm.Engine) -> float:
        start = time.perf_counter()
        sampling = {**GREEDY, "max_tokens": 400}
        work = [lambda i=i: list(engine.stream(ids_of(30, i), **sampling)) for i in range(8)]
        counts = [len(tokens) for tokens in together(work)]
        assert counts == [400] * 8
        return time.perf_counter() - start

    with sm.Engine(model, n_threads=2, max_buffered_tokens=8) as engine:
        eight(engine)
        alone, beside = [], []
        for _ in range(8):
            alone.append(eight(engine))
            stop = threading.Event()
            slow = [engine.stream(ids_of(25, i), **{**ENDLESS, "max_tokens": 900}) for i in (1, 2)]

            def read_slowly(stop: threading.Event = stop, slow: Any = slow) -> None:
                while not stop.wait(1.0):
                    next(slow[0])  # and nobody reads the second

            reader = threading.Thread(target=read_slowly)
            reader.start()
            wait_until(lambda: engine.status().n_running == 2, "the slow ones run")
            time.sleep(0.05)
            beside.append(eight(engine))
            stop.set()
            reader.join()
            for stream in slow:
                stream.close()
        # Medians, and a factor: the tiny model is so quick that the machine's own work shows. Who
        # waits for a reader of a token a second takes a hundred times as long.
        assert statistics.median(beside) < 2 * statistics.median(alone), (alone, beside)


def test_a_reader_that_is_gone_keeps_no_memory_from_others(model: Path) -> None:
    # L-06: its pages are promised to it, but it waits for nobody knows how long.
    with sm.Engine(model, n_threads=1) as probe:
        limit = 512 * probe.info.kv_bytes_per_token
    options: dict[str, Any] = {"context_length": 512, "kv_limit": limit, "max_buffered_tokens": 8}
    with sm.Engine(model, n_threads=2, **options) as engine:
        ids = ids_of(20, "gone")
        expected = engine.generate(ids, **{**GREEDY, "max_tokens": 480}).token_ids
        with engine.stream(ids, **{**GREEDY, "max_tokens": 480}) as stream:
            tokens = [next(stream).id]
            for i in range(5):
                other = engine.generate(ids_of(200, i), timeout=20, **GREEDY)
                assert other.finish_reason == "length"
            tokens += [token.id for token in stream]
        assert tokens == expected


def test_the_options_are_checked(model: Path) -> None:
    # B79: what is out of range is refused by name.
    wrong: dict[str, list[Any]] = {
        "max_queue_depth": [0, -1],
        "max_buffered_tokens": [0, -1, 65_537],
        "request_timeout": [0, -1.0, float("nan"), float("inf")],
        "on_full": ["drop", ""],
        "cache_type": ["f64", ""],
        "kv_limit": [0, -1, "2 parsecs", "-1GiB"],
        "max_kv_tokens": [0, -1],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(sm.InvalidArgumentError, match=name):
                sm.Engine(model, **{name: value})
        with pytest.raises(TypeError, match=name):
            sm.Engine(model, **{name: [1]})


# Fairness -----------------------------------------------------------------------------------------


def test_a_noisy_key_does_not_starve_the_quiet_ones(engine: sm.Engine) -> None:
    # L-05; the long run, with its bound for p99, is tests/bench/fairness.py
    solo = quiet_latencies(engine, n_noisy=0, n_each=5)
    noisy = quiet_latencies(engine, n_noisy=40, n_each=5)
    assert percentile(noisy, 90) <= 2.5 * percentile(solo, 90), (solo, noisy)
    assert_idle(engine)
