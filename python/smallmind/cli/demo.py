"""`smallmind demo`: four threads on one engine, a fifth cancelled midway, and the figures."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import smallmind as sm

from .output import is_terminal, memory_kib, model_path, printable, progress_bar, say, size_of

if TYPE_CHECKING:
    from rich.console import Group

QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain in two sentences why the sky is blue.",
    "Give me three tips for learning to play the piano.",
    "Write a short story about a robot that learns to paint.",
)
LONG_QUESTION = "Tell me the history of astronomy in great detail."
N_BEFORE_CANCEL = 24


@dataclass
class Run:
    """One thread's stream, as that thread saw it."""

    label: str
    question: str
    started: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    result: sm.ChatResult | None = None
    error: BaseException | None = None
    cancel: sm.CancellationToken = field(default_factory=sm.CancellationToken)

    @property
    def n_tokens(self) -> int:
        return 0 if self.result is None else self.result.usage.completion_tokens

    @property
    def rate(self) -> float:
        decoding = self.ended - self.first
        return (self.n_tokens - 1) / decoding if self.n_tokens > 1 and decoding > 0 else 0.0


class Display(Protocol):
    def add(self, index: int, text: str) -> None: ...
    def close(self) -> None: ...


class PlainDisplay:
    """For pipes and files: whole pieces of each answer, marked with its thread, as they come."""

    WIDTH = 72

    def __init__(self, runs: list[Run]) -> None:
        self._labels = [run.label for run in runs]
        self._held = ["" for _ in runs]

    def add(self, index: int, text: str) -> None:
        self._held[index] += text
        while len(self._held[index]) > self.WIDTH or "\n" in self._held[index]:
            line, self._held[index] = self._split(self._held[index])
            self._print(index, line)

    def close(self) -> None:
        for index, line in enumerate(self._held):
            self._print(index, line)

    def _split(self, text: str) -> tuple[str, str]:
        head, newline, tail = text.partition("\n")
        if newline and len(head) <= self.WIDTH:
            return head, tail
        cut = text.rfind(" ", 1, self.WIDTH)
        cut = self.WIDTH if cut < 0 else cut
        return text[:cut], text[cut:].lstrip(" ")

    def _print(self, index: int, line: str) -> None:
        if line.strip():
            say(f"[{self._labels[index]}] {line}")


class LiveDisplay:
    """For terminals: a panel for each answer, all growing at once."""

    REFRESH_S = 0.1  # drawing costs time that the model could use
    LINES = 6

    def __init__(self, runs: list[Run]) -> None:
        from rich.live import Live

        self._runs = runs
        self._texts = ["" for _ in runs]
        self._drawn = 0.0
        self._live = Live(self._picture(), auto_refresh=False)
        self._live.start()

    def add(self, index: int, text: str) -> None:
        self._texts[index] += printable(text)
        now = time.monotonic()
        if now - self._drawn >= self.REFRESH_S:
            self._drawn = now
            self._live.update(self._picture(), refresh=True)

    def close(self) -> None:
        self._live.update(self._picture(), refresh=True)
        self._live.stop()

    def _picture(self) -> Group:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        panels = []
        for run, text in zip(self._runs, self._texts, strict=True):
            lines = text.splitlines()[-self.LINES :]
            title = Text(f"{run.label}: {run.question}")
            panels.append(Panel(Text("\n".join(lines)), title=title, title_align="left"))
        return Group(*panels)


def run(model: str, n_threads: int | None, max_tokens: int, seed: int) -> None:
    path = model_path(model)
    start = time.perf_counter()
    with progress_bar("load") as progress:
        engine = sm.Engine(path, n_threads=n_threads, progress=progress)
    load_s = time.perf_counter() - start
    with engine:
        say(repr(engine))
        runs = [Run(f"thread {i + 1}", question) for i, question in enumerate(QUESTIONS)]
        say(f"\nFour threads, one engine, {max_tokens} tokens each at most:\n")
        at_once(engine, runs, max_tokens, seed)
        say("\nA fifth answer, cancelled from another thread midway:\n")
        fifth = Run("thread 5", LONG_QUESTION)
        cancel_s = cancelled_midway(engine, fifth, seed)
        say()
        for line in table(runs, fifth, cancel_s, load_s, path):
            say(line)


def read(engine: sm.Engine, run: Run, index: int, max_tokens: int, seed: int, to: Pieces) -> None:
    """One thread's whole work: a chat of its own over the shared engine."""
    try:
        with engine.chat_session() as session:
            run.started = time.perf_counter()
            with session.stream(
                run.question, max_tokens=max_tokens, seed=seed, cancel=run.cancel
            ) as stream:
                for token in stream:
                    run.first = run.first or time.perf_counter()
                    to.put((index, token.text))
                run.ended = time.perf_counter()
                run.result = stream.result()
    except BaseException as error:  # told to the main thread, which raises it
        run.error = error
    finally:
        to.put((index, None))


Pieces = queue.SimpleQueue[tuple[int, str | None]]


def pieces_of(
    engine: sm.Engine, runs: list[Run], max_tokens: int, seed: int
) -> Iterator[tuple[int, str]]:
    """Starts a thread a run and yields what they read, in the order in which it came."""
    pieces: Pieces = queue.SimpleQueue()
    threads = [
        threading.Thread(target=read, args=(engine, run, i, max_tokens, seed + i, pieces))
        for i, run in enumerate(runs)
    ]
    try:
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            index, text = pieces.get()
            if text is None:
                left -= 1
            else:
                yield index, text
    finally:  # the end, Ctrl-C or an error alike: no thread is left reading
        for run in runs:
            run.cancel.cancel()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    for run in runs:
        if run.error is not None:
            raise run.error


def at_once(engine: sm.Engine, runs: list[Run], max_tokens: int, seed: int) -> None:
    display: Display = LiveDisplay(runs) if is_terminal() else PlainDisplay(runs)
    try:
        for index, text in pieces_of(engine, runs, max_tokens, seed):
            display.add(index, text)
    finally:
        display.close()


def cancelled_midway(engine: sm.Engine, fifth: Run, seed: int) -> float:
    """Returns the seconds from cancel() in this thread to the end of the stream in the other."""
    cancelled_at = 0.0
    display = PlainDisplay([fifth])
    for n, (_, text) in enumerate(pieces_of(engine, [fifth], 512, seed), start=1):
        display.add(0, text)
        if n == N_BEFORE_CANCEL:
            cancelled_at = time.perf_counter()
            fifth.cancel.cancel()
    display.close()
    return max(0.0, fifth.ended - cancelled_at) if cancelled_at else 0.0


def table(runs: list[Run], fifth: Run, cancel_s: float, load_s: float, path: str) -> Iterator[str]:
    yield f"{'':<10} {'tokens':>8} {'tokens/s':>10} {'first token':>13}  ended by"
    for run in [*runs, fifth]:
        reason = "" if run.result is None else run.result.finish_reason
        waited = f"{1000 * (run.first - run.started):.0f} ms"
        yield f"{run.label:<10} {run.n_tokens:>8} {run.rate:>10.1f} {waited:>13}  {reason}"
    span = max(run.ended for run in runs) - min(run.started for run in runs)
    total = sum(run.n_tokens for run in runs)
    yield ""
    rate = total / span
    yield f"together     {rate:.1f} tokens/s, four threads at once ({total} in {span:.2f} s)"
    yield f"cancel       {1000 * cancel_s:.1f} ms from cancel() to the end of the stream"
    yield (
        f"memory       {size_of(1024 * memory_kib('VmHWM'))} at the peak, Python included; "
        f"the model file is {size_of(Path(path).stat().st_size)}"
    )
    yield f"load         {load_s:.2f} s"
