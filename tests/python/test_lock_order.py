"""Python's lock and the core's never wait for each other (P-06, D21)."""

from __future__ import annotations

import faulthandler
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

import smallmind as sm

PROMPT = "The quick brown fox"
SECONDS = 60


@pytest.fixture(autouse=True)
def a_deadlock_is_a_failure() -> Iterator[None]:
    """Ends the process with every thread's stack, because a deadlock holds the GIL as well."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def test_last_reference_dropped_in_a_callback(engine: sm.Engine) -> None:
    session = engine.text_session()
    streams = [session.stream(PROMPT, max_tokens=400, temperature=0)]

    def progress(stage: str, done: int, total: int) -> None:
        streams.clear()  # amid score(), with the stream's generation running

    ids = engine.tokenizer.encode(PROMPT * 40)
    engine.score(ids, positions=[len(ids) - 1], progress=progress)
    assert not streams
    assert session.generate(PROMPT, max_tokens=2).finish_reason == "length"
    session.close()


def test_last_reference_dropped_by_the_garbage_collector(engine: sm.Engine) -> None:
    class Cycle:
        pass

    for _ in range(20):
        cycle = Cycle()
        cycle.self = cycle  # type: ignore[attr-defined]
        session = engine.text_session()
        cycle.stream = session.stream(PROMPT, max_tokens=200)  # type: ignore[attr-defined]
        next(cycle.stream)  # type: ignore[attr-defined]
        gone = weakref.ref(cycle)
        del cycle, session
        gc.collect()
        assert gone() is None


def test_last_references_dropped_in_other_threads_while_all_generate(engine: sm.Engine) -> None:
    def churn(who: int) -> None:
        for turn in range(6):
            session = engine.text_session()
            stream = session.stream(PROMPT, max_tokens=100, seed=who)
            next(stream)
            holder = [stream, session]
            dropper = threading.Thread(target=holder.clear)
            del stream, session
            dropper.start()
            engine.generate(PROMPT, max_tokens=2 + turn % 2)
            dropper.join(SECONDS)
            assert not dropper.is_alive()

    threads = [threading.Thread(target=churn, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)


def test_cancelling_and_dropping_a_token_at_the_same_time(engine: sm.Engine) -> None:
    """A token's listener runs in the cancelling thread while its stream goes in this one."""
    for _ in range(60):
        token = sm.CancellationToken()
        stream = engine.stream(PROMPT, max_tokens=50, cancel=token)
        canceller = threading.Thread(target=token.cancel)
        canceller.start()
        del stream
        del token
        canceller.join(SECONDS)
        assert not canceller.is_alive()
