"""What more threads, more readers and more streams bring, each measured in turn with its other.

    python tests/bench/scaling.py MODEL.gguf [--rounds 7]
Bounds (issue 4): 2 compute threads >= 1.6 x 1 thread, on a prompt and on 16 sessions; 16 Python
readers cost <= 5 % of the rate with one reader inside; 16 short streams >= 4 x one stream.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import receipt
from load import ids_of, together

import smallmind as sm

N_STREAMS = 16
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
_salts = itertools.count()


def _prompts(engine: sm.Engine, n: int, n_tokens: int) -> list[list[int]]:
    return [ids_of(n_tokens, f"scaling {next(_salts)}", engine.info.n_vocab) for _ in range(n)]


def prompt_rate(engine: sm.Engine) -> float:
    """Tokens a second of one prompt of 512."""
    (ids,) = _prompts(engine, 1, 512)
    start = time.perf_counter()
    engine.generate(ids, max_tokens=1, **GREEDY)
    return len(ids) / (time.perf_counter() - start)


def streams_rate(engine: sm.Engine, n: int, n_prompt: int, n_tokens: int) -> float:
    """Tokens a second of n streams, each read by a Python thread, prompts included."""
    sampling = {**GREEDY, "max_tokens": n_tokens}
    prompts = _prompts(engine, n, n_prompt)

    def read(ids: list[int]) -> int:
        return sum(1 for _ in engine.stream(ids, **sampling))

    start = time.perf_counter()
    counts = together([lambda ids=ids: read(ids) for ids in prompts])
    return sum(counts) / (time.perf_counter() - start)


def inside_rate(engine: sm.Engine, n: int, n_prompt: int, n_tokens: int) -> float:
    """The same work for one caller who waits for all of it: no Python runs for a token."""
    prompts = _prompts(engine, n, n_prompt)
    start = time.perf_counter()
    results = engine.generate_many(prompts, max_tokens=n_tokens, **GREEDY)
    return sum(len(r.token_ids) for r in results) / (time.perf_counter() - start)


def in_turn(
    n_rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Both in each round, the order turned from round to round; a round before that is not kept."""
    firsts: list[float] = []
    seconds: list[float] = []
    first(), second()
    for i in range(n_rounds):
        pair = [(firsts, first), (seconds, second)]
        for values, measure in pair if i % 2 else pair[::-1]:
            values.append(measure())
    return firsts, seconds


def ratio(firsts: list[float], seconds: list[float]) -> float:
    """The median over rounds: what disturbs a round disturbs both of its halves."""
    return statistics.median(a / b for a, b in zip(firsts, seconds, strict=True))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"bounds": {}}
    bounds = figures["bounds"]
    rounds = options.rounds

    def keep(name: str, labels: tuple[str, str], pair: tuple[list[float], list[float]]) -> float:
        unit = "tokens a second"
        figures[name] = {
            label: receipt.summary(values, unit) for label, values in zip(labels, pair, strict=True)
        }
        return ratio(*pair)

    with (
        sm.Engine(options.model, n_threads=1) as one,
        sm.Engine(options.model, n_threads=2) as two,
    ):
        figures["engine"] = repr(two)
        threads = ("2 threads", "1 thread")
        found = in_turn(rounds, lambda: prompt_rate(two), lambda: prompt_rate(one))
        receipt.bound(bounds, "threads_prompt", keep("prompt", threads, found), at_least=1.6)
        found = in_turn(
            rounds,
            lambda: inside_rate(two, N_STREAMS, 121, 64),
            lambda: inside_rate(one, N_STREAMS, 121, 64),
        )
        receipt.bound(bounds, "threads_16", keep("sixteen", threads, found), at_least=1.6)
        found = in_turn(
            rounds,
            lambda: streams_rate(two, N_STREAMS, 8, 128),
            lambda: inside_rate(two, N_STREAMS, 8, 128),
        )
        cost = 1 - keep("readers", ("16 Python readers", "one inside"), found)
        receipt.bound(bounds, "readers_cost", cost, at_most=0.05)
        found = in_turn(
            rounds,
            lambda: streams_rate(two, N_STREAMS, 8, 128),
            lambda: streams_rate(two, 1, 8, 128),
        )
        gain = keep("streams", ("16 short streams", "one"), found)
        receipt.bound(bounds, "streams_16", gain, at_least=4.0)
    return figures


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    receipt.write(options, "scaling", measure(options))


if __name__ == "__main__":
    main()
