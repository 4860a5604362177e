"""The reading end of one generation."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _core
from .results import Token
from .uncopyable import Uncopyable

if TYPE_CHECKING:
    from typing_extensions import Self

    from .aio import LoopWaker


class TokenStream(_core.Stream, Uncopyable):
    """The tokens of one generation, as they are made: one `Token` for each, in order.

    An iterator, an asynchronous iterator, a context manager and an asynchronous context manager.
    Reading it to the end, `close()`, leaving `with`, dropping it, and any exception out of
    `__next__` free the session; all but the first cancel what still runs. `cancel()` may come from
    any thread. It never raises for a cancel or a timeout: see `finish_reason`. `result()` reads
    what is left, waiting for it, and returns the whole.
    """

    _INSTEAD = "collect its result() and pass that"

    def __init__(self, stream: _core.Stream) -> None:
        super().__init__(stream)
        self._waker: LoopWaker | None = None
        self._key = 0
        self._broken = False  # an exception ended an asynchronous read

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        from . import aio

        try:
            while True:
                token = self.poll()  # StopAsyncIteration at the end
                if token is not None:
                    return token
                await aio.news(self)
        except StopAsyncIteration:
            raise
        except BaseException:
            self._broken = True
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        return Uncopyable.__reduce_ex__(self, protocol)

    def __repr__(self) -> str:
        return f"<TokenStream finish_reason={self.finish_reason!r}>"
