"""What the commands share: safe text, errors and exit codes, progress, finding the model."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from .. import hub
from ..errors import SmallMindError

Progress = Callable[[str, int, int], None]


def printable(text: str) -> str:
    """`text` with everything a terminal could obey written out as an escape.

    Model files and model output are not trusted: control characters and characters that reorder
    what is shown (bidirectional formatting) become \\x.. or \\u....; newline and tab stay.
    """
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) else _escaped(c) for c in text)


def _harmless(char: str) -> bool:
    if char in "\n\t":
        return True
    # Cf holds the bidirectional controls, but also the joiners that emoji and scripts need.
    return char in "\u200c\u200d" or unicodedata.category(char) not in ("Cc", "Cf", "Cs")


def _escaped(char: str) -> str:
    code = ord(char)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def say(text: str = "", *, end: str = "\n") -> None:
    """To standard output, at once."""
    print(printable(text), end=end, flush=True)


def note(text: str) -> None:
    """To standard error: what is about the run and not its result."""
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr, flush=True)


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def reported() -> Iterator[None]:
    """Turns what a user can meet into one line on standard error and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except SmallMindError as error:
        note(f"smallmind: {type(error).__name__} ({error.code}): {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        note("smallmind: interrupted")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader of a pipe has gone; Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(141) from None


def size_of(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.2f} GiB"


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line for each quarter of each stage, on standard error."""
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label)

            def draw(stage: str, done: int, total: int) -> None:
                bar.update(task, description=f"{label}: {stage}", completed=done, total=total)

            yield draw
        return

    told: set[tuple[str, int]] = set()

    def tell(stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if quarter and (stage, quarter) not in told:
            told.add((stage, quarter))
            note(f"{label}: {stage} {25 * quarter} %")

    yield tell


def model_path(model: str) -> str:
    """A name of the registry is pulled; anything else is a path."""
    if model not in hub.MODELS:
        return model
    return pull_with_bar(model)


def pull_with_bar(name: str) -> str:
    entry = hub.MODELS.get(name)
    known = entry is not None and (hub.cache_dir() / name / entry.filename).exists()
    if known:
        return hub.pull(name)
    with progress_bar(name) as progress:
        return hub.pull(name, progress=progress)


def memory_kib(field: str) -> int:
    """VmHWM (peak) or VmRSS (now) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0
