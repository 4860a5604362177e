"""`progress=`: a callable, True for a tqdm bar, or None."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import MissingExtraError

Progress = Callable[[str, int, int], object]
"""Called with (stage, done, total) in the caller's thread, at most 20 times a second. What it
raises cancels the call and comes out of it."""


@contextmanager
def reporting(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """What the core calls, while the block runs."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with _tqdm_bar() as update:
            yield update
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress: wants a callable or a bool, has {type(progress).__name__}")


@contextmanager
def _tqdm_bar() -> Iterator[Progress]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtraError("progress=True needs tqdm: pip install 'smallmind[demo]'") from None
    with tqdm(unit="", unit_scale=True) as bar:

        def update(stage: str, done: int, total: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.total = total
            bar.n = done
            bar.refresh()

        yield update
