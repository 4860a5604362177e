"""Chat sessions: messages through the model's template, generated ids kept as they are."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

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


class _Context(NamedTuple):
    messages: list[dict[str, str]]
    kept: Prompt | None
    """What the core's session holds of them; None: nothing yet."""


class _Turn:
    """One question and its answer.

    An exception may come out between any two steps of it, Ctrl-C included, so nothing of a turn has
    to be given back: it lasts while the call that began it is inside `with running`, and then while
    it has a stream that somebody reads.
    """

    def __init__(self, cancel: _core.CancellationToken | None = None) -> None:
        if not isinstance(cancel, _core.CancellationToken | None):
            raise TypeError(f"cancel: wants CancellationToken, has {type(cancel).__name__}")
        # The session's cancel() trips it, from the beginning of the turn on.
        self.token = _core.CancellationToken.linked(*([] if cancel is None else [cancel]))
        self.running = threading.Lock()
        self.since = time.monotonic()
        self.context = _Context([], None)  # that it leaves: until it is answered, the one before it
        self.messages: list[dict[str, str]] = []
        self.prompt = Prompt("", [], retokenized=False)
        self.stream: _core.Stream | None = None  # until what is to be kept of it is in the context
        self.reader: Callable[[], ChatStream | None] = lambda: None
        self.has_failed = False  # by an exception: nothing is kept

    def result(self, result: GenerationResult) -> ChatResult:
        fields = {
            field.name: getattr(result, field.name)
            for field in dataclasses.fields(GenerationResult)
        }
        fields["usage"] = dataclasses.replace(result.usage, retokenized=self.prompt.retokenized)
        return ChatResult(**fields, message={"role": "assistant", "content": result.text})


class _Link(NamedTuple):
    """A turn, and the place for the one after it, which `dict.setdefault` gives to the first who
    comes: in one step, where a lock could stay taken. A turn does not know its link, or a stream
    that somebody keeps would keep all later turns."""

    turn: _Turn
    next: dict[None, _Link]


class ChatStream(TokenStream):
    """The tokens of one answer. However the stream ends, the chat keeps the text so far; only an
    exception leaves its messages as they were before the call."""

    def __init__(self, stream: _core.Stream, chat: ChatSession, turn: _Turn) -> None:
        super().__init__(stream)
        self._chat = chat
        self._turn = turn

    def __next__(self) -> Token:
        try:
            token = super().__next__()
        except StopIteration:
            self._end_turn()
            raise
        except BaseException:
            self._fail()
            raise
        return token

    async def __anext__(self) -> Token:
        try:
            token = await super().__anext__()
        except StopAsyncIteration:
            self._end_turn()
            raise
        except BaseException:
            self._fail()
            raise
        return token

    def close(self) -> None:
        super().close()
        self._end_turn()

    def result(self) -> ChatResult:
        try:
            result = super().result()
            self._end_turn()
        except BaseException:
            self._fail()
            raise
        return self._turn.result(result)

    def _end_turn(self) -> None:
        if self.failed or self._broken:
            self._turn.has_failed = True
        self._chat._end(self._turn)

    def _fail(self) -> None:
        self._turn.has_failed = True
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:
            pass  # the interpreter ends, or an exception came before __init__


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
        self._start_context = _Context(messages, None)
        first = _Turn()
        first.context = self._start_context
        self._last = _Link(first, {})  # or, after an exception, one before the last
        self._cancelled: _Turn | None = None

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
        turn = _Turn(cancel)
        with turn.running:
            self._begin(turn, new)
            result = self._core.generate_context(
                turn.prompt.ids, core_params(params), turn.token, timeout
            )
            self._keep(turn, result)
        return turn.result(result)

    def _start(
        self,
        new: list[dict[str, str]],
        params: SamplingParams | None,
        cancel: _core.CancellationToken | None,
        timeout: float | None,
        owns_session: bool,
    ) -> ChatStream:
        turn = _Turn(cancel)
        try:
            with turn.running:
                self._begin(turn, new)
                turn.stream = self._core.start_context(
                    turn.prompt.ids,
                    core_params(params),
                    turn.token,
                    timeout,
                    owns_session=owns_session,
                )
                stream = ChatStream(turn.stream, self, turn)
                turn.reader = weakref.ref(stream)
            return stream
        except BaseException:  # whoever keeps the exception keeps the stream
            turn.has_failed = True
            if turn.stream is not None:
                turn.stream.close()
            raise

    def _begin(self, turn: _Turn, new: list[dict[str, str]]) -> None:
        self._take(turn)
        turn.messages = [*turn.context.messages, *new]
        checked_messages(turn.messages, "messages")  # their number
        turn.prompt = self._prompt.next(turn.messages, turn.context.kept)

    def _take(self, turn: _Turn) -> None:
        """Makes it the last turn, or raises SessionBusyError. It must be running."""
        link, last = _Link(turn, {}), self._last
        while last is not link:
            if not self._settle(last.turn, gives_way=True):
                since = last.turn.since
                del link, last  # whoever keeps the exception would keep all later turns
                self._raise_busy(since)
            turn.context = last.turn.context
            last = last.next.setdefault(None, link)
        self._last = link

    def _raise_busy(self, since: float) -> NoReturn:
        _ = self._core.busy  # in a forked child that raises, and nothing else is said
        raise SessionBusyError(
            f"chat session {self.id!r} has a call or an open stream since "
            f"{time.monotonic() - since:.3f} s; session.cancel() ends it"
        )

    def _settle(self, turn: _Turn, gives_way: bool = False) -> bool:
        """Whether the turn is over. Ends it when its stream is over or nobody reads it any more.
        After `cancel()` a new call need not wait for whoever still holds the old stream: that one
        is closed."""
        if turn.running.locked():
            return False
        stream = turn.stream
        if stream is None:
            return True
        is_dropped = turn.has_failed or turn.reader() is None
        if is_dropped or (gives_way and turn is self._cancelled):
            stream.close()
        elif self._core.busy:
            return False
        self._end(turn)
        return True

    def _end(self, turn: _Turn) -> None:
        """Of a stream that is over. A second time, also in another thread, changes nothing."""
        stream = turn.stream
        if stream is None:
            return
        if not turn.has_failed:
            self._keep(turn, stream.partial_result())
        turn.stream = None

    def _keep(self, turn: _Turn, result: GenerationResult) -> None:
        """The turn is part of the conversation, with the text so far."""
        message = {"role": "assistant", "content": result.text}
        kept = self._prompt.answered(turn.prompt, result.text, result.token_ids)
        turn.context = _Context([*turn.messages, message], kept)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far; a copy."""
        last = self._last.turn
        self._settle(last)
        return [dict(message) for message in last.context.messages]

    def render(self, *, add_generation_prompt: bool = False) -> str:
        """The text that the template makes of the messages."""
        return self._prompt.render(self.messages, add_generation_prompt)

    def cancel(self) -> None:
        """Ends the call or stream that runs, if one does. Any thread."""
        self._cancelled = turn = self._last.turn
        self._core.cancel()
        turn.token.cancel()

    def reset(self) -> None:
        """Back to the messages that the session was made with."""
        turn = _Turn()
        with turn.running:
            self._take(turn)
            self._core.reset()
            turn.context = self._start_context

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
        state = "closed" if self.closed else f"{len(self._last.turn.context.messages)} messages"
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
