"""Chat sessions: messages through the model's template, generated ids kept as they are."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _core
from .chat_prompt import ChatPrompt, Prompt, checked_messages
from .errors import InvalidArgumentError, SessionBusyError
from .params import SamplingParams, core_params, spelled_out
from .results import ChatResult, GenerationResult, Token
from .stream import TokenStream
from .uncopyable import Uncopyable

if TYPE_CHECKING:
    from typing_extensions import Self

Message = Mapping[str, str]


class _Turn:
    """One question and its answer, from the rendering to the end of the stream."""

    def __init__(self, chat: ChatSession, messages: list[dict[str, str]]) -> None:
        self.messages = messages
        self.prompt: Prompt = chat._prompt.next(messages)
        self._chat = chat
        self._open = threading.Lock()  # taken by whoever ends the turn

    def end(self, result: GenerationResult | None) -> None:
        """Keeps the turn with the text so far; None leaves the chat as it was. Counts once."""
        if not self._open.acquire(blocking=False):
            return
        if result is not None:
            message = {"role": "assistant", "content": result.text}
            self._chat._prompt.keep(self.prompt, result.text, result.token_ids)
            self._chat._messages = [*self.messages, message]
        self._chat._turn = None
        self._chat._in_use.release()

    def chat_result(self, result: GenerationResult) -> ChatResult:
        fields = {
            field.name: getattr(result, field.name)
            for field in dataclasses.fields(GenerationResult)
        }
        fields["usage"] = dataclasses.replace(result.usage, retokenized=self.prompt.retokenized)
        return ChatResult(**fields, message={"role": "assistant", "content": result.text})


class ChatStream(TokenStream):
    """The tokens of one answer. However the stream ends, the chat keeps the text so far; only an
    exception leaves its messages as they were before the call."""

    def __init__(self, stream: _core.Stream, turn: _Turn) -> None:
        super().__init__(stream)
        self._turn = turn

    def __next__(self) -> Token:
        try:
            return super().__next__()
        except BaseException:  # the end (StopIteration), too
            self._end_turn()
            raise

    async def __anext__(self) -> Token:
        try:
            return await super().__anext__()
        except BaseException:
            self._end_turn()
            raise

    def close(self) -> None:
        super().close()
        self._end_turn()

    def result(self) -> ChatResult:
        try:
            result = super().result()
        finally:
            self._end_turn()
        return self._turn.chat_result(result)

    def _end_turn(self) -> None:
        self._turn.end(None if self.failed or self._broken else self.partial_result())

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:
            pass  # the interpreter ends, or __init__ failed


class ChatSession(Uncopyable):
    """A conversation. One call at a time, from any thread; made by `Engine.chat_session`.

    What the model generated stays in the context token by token as it was; of a new turn only the
    text that the template adds is tokenised. Where the template rewrites earlier text, the whole
    is tokenised again and `usage.retokenized` says so.
    """

    _INSTEAD = "make one in each process from its messages"

    def __init__(
        self, core: _core.Session, prompt: ChatPrompt, messages: list[dict[str, str]]
    ) -> None:
        self._core = core
        self._prompt = prompt
        self._first_messages = messages
        self._messages = messages
        self._in_use = threading.Lock()  # held by a turn from its start to its end
        self._since = 0.0
        self._turn: _Turn | None = None
        self._cancelled: _Turn | None = None
        self._stream: weakref.ref[ChatStream] | None = None

    @spelled_out
    def send(
        self,
        text: str,
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
    ) -> ChatResult:
        """Sends a user message and returns the answer. A cancel or the timeout ends it early."""
        return self._send(_user_message(text), params, cancel, timeout)

    @spelled_out
    def stream(
        self,
        text: str,
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
    ) -> ChatStream:
        """Sends a user message and returns the answer as a stream; also for `async for`."""
        return self._start(_user_message(text), params, cancel, timeout, owns_session=False)

    def _send(
        self,
        new: list[dict[str, str]],
        params: SamplingParams | None,
        cancel: _core.CancellationToken | None,
        timeout: float | None,
    ) -> ChatResult:
        turn = self._begin(new)
        result = None
        try:
            result = self._core.generate_context(
                turn.prompt.ids, core_params(params), cancel, timeout
            )
        finally:
            turn.end(result)
        return turn.chat_result(result)

    def _start(
        self,
        new: list[dict[str, str]],
        params: SamplingParams | None,
        cancel: _core.CancellationToken | None,
        timeout: float | None,
        owns_session: bool,
    ) -> ChatStream:
        turn = self._begin(new)
        try:
            core = self._core.start_context(
                turn.prompt.ids, core_params(params), cancel, timeout, owns_session=owns_session
            )
            stream = ChatStream(core, turn)
        except BaseException:
            turn.end(None)
            raise
        self._stream = weakref.ref(stream)
        return stream

    def _begin(self, new: list[dict[str, str]]) -> _Turn:
        self._settle(gives_way=True)
        if not self._in_use.acquire(blocking=False):
            raise SessionBusyError(
                f"chat session {self.id!r} has a call or an open stream since "
                f"{time.monotonic() - self._since:.3f} s; session.cancel() ends it"
            )
        try:
            self._since = time.monotonic()
            messages = [*self._messages, *new]
            checked_messages(messages, "messages")  # their number
            self._turn = _Turn(self, messages)
            return self._turn
        except BaseException:
            self._in_use.release()
            raise

    def _settle(self, gives_way: bool = False) -> None:
        """Ends a turn whose stream is over but was not read to its end. After `cancel()` a new call
        need not wait for whoever still holds the old stream: that one is closed."""
        stream = self._stream() if self._stream is not None else None
        turn = self._turn
        if stream is None or turn is not stream._turn:
            return
        if gives_way and turn is self._cancelled:
            stream.close()
        elif not self._core.busy:
            stream._end_turn()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far; a copy."""
        self._settle()
        return [dict(message) for message in self._messages]

    def render(self, *, add_generation_prompt: bool = False) -> str:
        """The text that the template makes of the messages."""
        return self._prompt.render(self.messages, add_generation_prompt)

    def cancel(self) -> None:
        """Ends the call or stream that runs, if one does. Any thread."""
        self._cancelled = self._turn
        self._core.cancel()

    def reset(self) -> None:
        """Back to the messages that the session was made with."""
        self._settle(gives_way=True)
        self._core.reset()
        self._messages = self._first_messages
        self._prompt.forget()

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
        """The context, token by token."""
        return self._core.token_ids

    def __len__(self) -> int:
        return len(self._core)

    def __bool__(self) -> bool:
        return True

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
        state = "closed" if self.closed else f"{len(self._messages)} messages"
        return f"<ChatSession {self.id!r}: {state}>"


def _user_message(text: Any) -> list[dict[str, str]]:
    if not isinstance(text, str):
        raise TypeError(f"text: wants str, has {type(text).__name__}")
    if not text:
        raise InvalidArgumentError("text: is empty")
    return checked_messages([{"role": "user", "content": text}], "messages")


def first_messages(system: str | None, messages: Iterable[Message]) -> list[dict[str, str]]:
    """The messages that a session starts with, checked and copied."""
    checked = checked_messages(messages, "messages")
    if system is None:
        return checked
    return [*checked_messages([{"role": "system", "content": system}], "system"), *checked]
