"""`smallmind bench`: what a model makes on this machine, as a receipt."""

from __future__ import annotations

import datetime
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import smallmind as sm

from .. import _core
from .machine import commit, compiler, cpu_features, machine, sha256
from .output import memory_kib, model_path, note, say, size_of

PROMPT_TOKENS = 512
SHORT_PROMPT_TOKENS = 8
STREAM_TOKENS = 128


class Bench:
    """One engine and the work that is measured on it. Every prompt is new to the cache."""

    def __init__(self, engine: sm.Engine) -> None:
        self._engine = engine
        self._draw = random.Random(1)
        room = engine.info.context_length
        self.prompt_tokens = min(PROMPT_TOKENS, room - 1)
        self.stream_tokens = min(STREAM_TOKENS, room - SHORT_PROMPT_TOKENS)
        if self.prompt_tokens < 1 or self.stream_tokens < 2:
            raise sm.InvalidArgumentError(
                f"context_length: {room} tokens are too few to measure; wants at least "
                f"{SHORT_PROMPT_TOKENS + 2}"
            )

    def rows(self) -> dict[str, Callable[[], float]]:
        """Each gives tokens a second."""
        return {
            f"prompt of {self.prompt_tokens}": self.prompt,
            "1 stream": self.stream,
            "4 streams": lambda: self.streams(4),
            "16 streams": lambda: self.streams(16),
        }

    def prompt(self) -> float:
        return self.prompt_tokens / self._generate(self.prompt_tokens, 1).timings.first_token_s

    def stream(self) -> float:
        """From the first token on."""
        result = self._generate(SHORT_PROMPT_TOKENS, self.stream_tokens)
        return (self.stream_tokens - 1) / result.timings.decode_s

    def streams(self, n: int) -> float:
        """All together, their short prompts included, a thread each."""
        with ThreadPoolExecutor(n) as pool:
            start = time.perf_counter()
            work = [
                pool.submit(self._generate, SHORT_PROMPT_TOKENS, self.stream_tokens)
                for _ in range(n)
            ]
            for done in work:
                done.result()
            return n * self.stream_tokens / (time.perf_counter() - start)

    def _generate(self, n_prompt: int, n_tokens: int) -> sm.GenerationResult:
        n_vocab = self._engine.info.n_vocab
        ids = [self._draw.randrange(n_vocab) for _ in range(n_prompt)]
        return self._engine.generate(ids, max_tokens=n_tokens, temperature=0, ignore_eos=True)


def run(model: str, n_threads: int | None, rounds: int, as_json: bool) -> None:
    receipt = measure(Path(model_path(model)), n_threads, rounds)
    if as_json:
        say(json.dumps(receipt, indent=1))
    else:
        for line in table(receipt):
            say(line)


def measure(path: Path, n_threads: int | None, rounds: int) -> dict[str, Any]:
    load_average = round(os.getloadavg()[0], 2)
    loads = []
    for left in reversed(range(rounds)):
        start = time.perf_counter()
        engine = sm.Engine(path, n_threads=n_threads)
        loads.append(time.perf_counter() - start)
        if left:
            engine.close()
    with engine:
        bench = Bench(engine)
        bench.streams(2)  # what happens once only is not counted
        rows: dict[str, list[float]] = {name: [] for name in bench.rows()}
        for i in range(rounds):
            note(f"round {i + 1} of {rounds}")
            for name, work in bench.rows().items():
                rows[name].append(work())
        info = engine.info
    return {
        "date": datetime.date.today().isoformat(),
        "smallmind": sm.__version__,
        "commit": commit(),
        "compiler": compiler(Path(_core.__file__)),
        "machine": machine(),
        "cpu_features": cpu_features(),
        "isa": info.isa,
        "threads": info.n_threads,
        "load_average_before": load_average,
        "model": path.name,
        "model_sha256": sha256(path),
        "model_bytes": path.stat().st_size,
        "architecture": info.architecture,
        "load_s": samples(loads, 4),
        "tokens_per_s": {name: samples(values, 1) for name, values in rows.items()},
        "peak_memory_bytes": 1024 * memory_kib("VmHWM"),
    }


def samples(values: Sequence[float], digits: int) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), digits),
        "samples": [round(value, digits) for value in values],
    }


def table(receipt: dict[str, Any]) -> list[str]:
    lines = [
        f"smallmind {receipt['smallmind']}, {receipt['compiler']}, {receipt['date']}",
        receipt["machine"],
        f"{receipt['isa']}, {receipt['threads']} threads, of {' '.join(receipt['cpu_features'])}",
        f"load average before: {receipt['load_average_before']}",
        f"{receipt['model']}, {size_of(receipt['model_bytes'])}, {receipt['architecture']}",
        f"sha256 {receipt['model_sha256']}",
        "",
        f"{'tokens a second':<20} {'median':>10}  samples",
    ]
    if receipt["commit"] is not None:
        lines.insert(1, f"commit {receipt['commit']}")
    for name, row in receipt["tokens_per_s"].items():
        each = " ".join(f"{value:.1f}" for value in row["samples"])
        lines.append(f"{name:<20} {row['median']:>10.1f}  {each}")
    loads = " ".join(f"{value:.3f}" for value in receipt["load_s"]["samples"])
    return [
        *lines,
        f"{'load, s':<20} {receipt['load_s']['median']:>10.3f}  {loads}",
        f"{'peak memory':<20} {size_of(receipt['peak_memory_bytes']):>10}  Python included",
    ]
