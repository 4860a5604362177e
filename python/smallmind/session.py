"""A text session: one growing context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from . import _core
from .params import SamplingParams, core_params, spelled_out
from .results import GenerationResult
from .stream import TokenStream
from .uncopyable import Uncopyable

if TYPE_CHECKING:
    from typing_extensions import Self

Prompt = str | Sequence[int]
"""A text, or token ids that are taken as they are."""


class TextSession(Uncopyable):
    """One growing context: each prompt is appended to what it holds, then the answer.

    One call at a time, from any thread; a second call beside an open stream raises
    `SessionBusyError`. `cancel()` and `close()` may come from any thread at any time. Made by
    `Engine.text_session`.
    """

    _INSTEAD = "make one in each process, and pass its token_ids"

    def __init__(self, core: _core.Session) -> None:
        self._core = core

    @spelled_out
    def generate(
        self,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        cancel: _core.CancellationToken | None = None,
        timeout: float | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: int | None = None,
        seed: int | None = None,
    ) -> GenerationResult:
        """Appends the prompt, generates, and returns the whole result.

        A cancel or the timeout (seconds, waiting included) ends it early and does not raise: the
        result has what was made so far, `finish_reason` says why, `check()` raises.
        """
        return self._core.generate(prompt, core_params(params), cancel, timeout)

    @spelled_out
    def stream(
        self,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        cancel: _core.CancellationToken | None = None,
        timeout: float | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: int | None = None,
        seed: int | None = None,
    ) -> TokenStream:
        """The same as a stream of tokens; also for `async for`."""
        return TokenStream(self._core.start(prompt, core_params(params), cancel, timeout))

    @spelled_out
    async def agenerate(
        self,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        cancel: _core.CancellationToken | None = None,
        timeout: float | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: int | None = None,
        seed: int | None = None,
    ) -> GenerationResult:
        """`generate` for asyncio: no thread waits. Cancelling the task ends the generation."""
        from . import aio

        core = self._core.start(prompt, core_params(params), cancel, timeout, collect_only=True)
        stream = TokenStream(core)
        await aio.end(stream)
        return stream.partial_result()

    def cancel(self) -> None:
        """Ends the call or stream that runs, if one does. Any thread."""
        self._core.cancel()

    def reset(self) -> None:
        """Empties the context."""
        self._core.reset()

    @spelled_out
    def fork(self, session_id: str | None = None) -> TextSession:
        """A new session with the same context, limits, cache_salt and fairness_key. It shares the
        keys and values of what both hold, so that forking costs no computation. session_id: its
        name, None makes one. Raises SessionBusyError beside a call or an open stream."""
        return TextSession(self._core.fork(session_id))

    def close(self) -> None:
        """Cancels what runs and gives the memory back. Any thread; a second close does nothing."""
        self._core.close()

    @property
    def closed(self) -> bool:
        return self._core.closed

    @property
    def id(self) -> str:
        return self._core.id

    @property
    def token_ids(self) -> list[int]:
        """The context: prompts, and the generated tokens that were received."""
        return self._core.token_ids

    def __len__(self) -> int:
        return len(self._core)

    def __bool__(self) -> bool:
        return True  # also when its context is empty

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self)} tokens"
        return f"<TextSession {self.id!r}: {state}>"
