"""asyncio: one event descriptor an event loop wakes all its streams; no thread waits.

Imported with the first asynchronous call.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from typing import TYPE_CHECKING

from . import _core
from .errors import SessionBusyError

if TYPE_CHECKING:
    from .stream import TokenStream

_keys = itertools.count(1)
_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopWaker] = (
    weakref.WeakKeyDictionary()
)


class LoopWaker:
    """The waiting streams of one event loop. Used in that loop's thread only.

    The loop watches the descriptor while a stream waits and not longer, so that it can be closed
    at any other time. The loop is no attribute: it would keep itself alive in `_wakers`.
    """

    def __init__(self) -> None:
        self._waker = _core.Waker()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def news(self, stream: TokenStream) -> None:
        """Returns when the stream may have a token or its end; sometimes without one."""
        loop = asyncio.get_running_loop()
        if stream._waker is not self:
            stream._key = next(_keys)
            stream._waker = self
            stream.attach(self._waker, stream._key)
        key = stream._key
        if key in self._waiting:
            raise SessionBusyError("another task is waiting for this stream")
        future = loop.create_future()
        if not self._waiting:
            loop.add_reader(self._waker.fileno(), self._wake)
        self._waiting[key] = future
        try:
            await future
        finally:
            del self._waiting[key]
            if not self._waiting:
                loop.remove_reader(self._waker.fileno())

    def _wake(self) -> None:
        for key in self._waker.take_ready():
            future = self._waiting.get(key)
            if future is not None and not future.done():
                future.set_result(None)


async def news(stream: TokenStream) -> None:
    loop = asyncio.get_running_loop()
    waker = _wakers.get(loop)
    if waker is None:
        waker = _wakers[loop] = LoopWaker()
    await waker.news(stream)


async def end(stream: TokenStream) -> None:
    """Waits for the end of a stream whose tokens nobody reads; an exception closes it."""
    try:
        while not stream.poll_end():
            await news(stream)
    except BaseException:
        stream.close()
        raise
