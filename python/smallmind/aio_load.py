"""Loading a model from asyncio code."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from . import _core
from .progress import Progress, reporting

if TYPE_CHECKING:
    from .engine import Engine, Path

E = TypeVar("E", bound="Engine")


async def load_in_thread(
    cls: type[E],
    path: Path,
    progress: Progress | bool | None,
    cancel: _core.CancellationToken | None,
    **options: Any,
) -> E:
    """The engine; what `progress` raises in the event loop ends the load and comes out here."""
    loop = asyncio.get_running_loop()
    stop = _core.CancellationToken()
    linked = stop if cancel is None else _core.CancellationToken.linked(stop, cancel)
    raised: list[BaseException] = []

    with reporting(progress) as callback:

        def report(stage: str, done: int, total: int) -> None:
            if callback is None or raised:
                return
            try:
                callback(stage, done, total)
            except BaseException as error:
                raised.append(error)
                stop.cancel()

        def report_from_thread(stage: str, done: int, total: int) -> None:
            loop.call_soon_threadsafe(report, stage, done, total)

        def load() -> E:
            told = report_from_thread if callback is not None else None
            return cls(path, progress=told, cancel=linked, **options)

        try:
            engine = await asyncio.to_thread(load)
        except BaseException:
            stop.cancel()
            if raised:
                raise raised[0] from None
            raise
        if raised:
            engine.close()
            raise raised[0]
        return engine
