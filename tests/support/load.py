"""Load for an engine, and the measures that tests and benchmarks take beside it."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import smallmind as sm

ENDLESS: dict[str, Any] = {"max_tokens": 4_000, "ignore_eos": True, "temperature": 0}


def ids_of(n: int, salt: int | str, n_vocab: int = 250) -> list[int]:
    """n ids that differ from those of another salt from the first on (but for one in n_vocab)."""
    order = random.Random(f"ids {salt}")
    return [order.randrange(10, min(n_vocab, 30_000)) for _ in range(n)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not exceeded by `percent` of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def together(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """All at the same instant, a thread each: their results, or the first error."""
    results: list[Any] = [None] * len(work)
    errors: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(i: int) -> None:
        try:
            start.wait()
            results[i] = work[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    latest = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > latest:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.001)


@contextmanager
def busy(
    engine: sm.Engine, n_sessions: int, n_prompt: int = 8, max_tokens: int = 4_000
) -> Iterator[None]:
    """That many sessions that generate all the while, each from a thread of its own. They wait for
    the whole answer, so that no Python runs for their tokens."""
    token = sm.CancellationToken()
    n_vocab = engine.info.n_vocab

    def generate(i: int) -> None:
        while not token.cancelled:
            ids = ids_of(n_prompt, f"busy {i}", n_vocab)
            sampling = {**ENDLESS, "max_tokens": max_tokens}
            engine.generate(ids, cancel=token, **sampling)

    threads = [threading.Thread(target=generate, args=(i,)) for i in range(n_sessions)]
    before = engine.status()
    for thread in threads:
        thread.start()
    try:
        wait_until(
            lambda: engine.status().n_running >= before.n_running + n_sessions, "all are running"
        )
        yield
    finally:
        token.cancel()
        for thread in threads:
            thread.join()


def time_to_first_token(engine: sm.Engine, ids: Sequence[int], **options: Any) -> float:
    """Seconds from the call to the first token in the caller's hands."""
    start = time.perf_counter()
    with engine.stream(ids, ignore_eos=True, max_tokens=2, temperature=0, **options) as stream:
        next(stream)
        return time.perf_counter() - start


def area_under_curve(first: Sequence[float], second: Sequence[float]) -> float:
    """How often a value of `first` is below one of `second`: 0.5 when nothing tells them apart."""
    both = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    below = total = 0
    for _, kind in both:
        if kind == 0:
            below += 1
        else:
            total += below
    return total / (len(first) * len(second))


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4_096
