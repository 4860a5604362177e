"""The engine: one model, many sessions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .errors import InvalidArgumentError, TemplateError
from .params import SamplingParams, core_params, spelled_out
from .progress import Progress, reporting
from .results import ChatResult, EngineInfo, EngineStatus, GenerationResult
from .session import Prompt, TextSession
from .stream import TokenStream
from .uncopyable import Uncopyable

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self

    from .chat import ChatSession, ChatStream, Message
    from .chat_prompt import Spellings
    from .template import ChatTemplate

Path = str | bytes | os.PathLike[str]


class Engine(Uncopyable):
    """One model in memory. Thread-safe: any method, any thread, any time.

    Each session is one growing context and takes one call at a time; the engine computes all that
    run together. `generate`, `stream`, `chat` and `chat_stream` are the same without a session
    that lives on. A context manager; `close()` ends what runs.
    """

    _INSTEAD = "open the model in each process: smallmind.Engine(path)"

    @spelled_out
    def __init__(
        self,
        path: Path,
        *,
        n_threads: int | None = None,
        context_length: int | None = None,
        enable_kv_cache: bool = True,
        progress: Progress | bool | None = None,
        cancel: _core.CancellationToken | None = None,
    ) -> None:
        """Loads the model: all or nothing.

        n_threads: None takes what the machine allows. context_length: None takes the model's own.
        enable_kv_cache: False keeps nothing between the calls of a session.
        progress(stage, done, total) comes at most 20 times a second; True shows a tqdm bar.
        """
        _check_bool("enable_kv_cache", enable_kv_cache)
        with reporting(progress) as callback:
            self._core = _core.Engine.load(
                path,
                n_threads=_integer("n_threads", n_threads),
                context_length=_integer("context_length", context_length),
                enable_kv_cache=enable_kv_cache,
                progress=callback,
                cancel=cancel,
            )
        self._tokenizer = self._core.tokenizer()
        self._spellings: Spellings | None = None
        self._template: ChatTemplate | None = None

    @classmethod
    @spelled_out
    async def aload(
        cls,
        path: Path,
        *,
        n_threads: int | None = None,
        context_length: int | None = None,
        enable_kv_cache: bool = True,
        progress: Progress | bool | None = None,
        cancel: _core.CancellationToken | None = None,
    ) -> Self:
        """Loads for asyncio, in a thread of the default executor; progress comes in the event
        loop. Cancelling the task ends the load."""
        from .aio_load import load_in_thread

        return await load_in_thread(
            cls,
            path,
            progress,
            cancel,
            n_threads=n_threads,
            context_length=context_length,
            enable_kv_cache=enable_kv_cache,
        )

    @property
    def tokenizer(self) -> _core.Tokenizer:
        return self._tokenizer

    @property
    def info(self) -> EngineInfo:
        """What was loaded and which defaults were chosen."""
        return self._core.info()

    def status(self) -> EngineStatus:
        """What is in use now."""
        return self._core.status()

    @property
    def closed(self) -> bool:
        return self._core.closed

    @spelled_out
    def score(
        self,
        ids: Sequence[int],
        *,
        positions: Sequence[int] | None = None,
        out: npt.NDArray[np.float32] | None = None,
        cancel: _core.CancellationToken | None = None,
        progress: Progress | bool | None = None,
    ) -> npt.NDArray[np.float32]:
        """Raw logits [n, n_vocab] after each of the ids, or after those at `positions`
        (ascending). The ids are taken as they are. `out`: an array of that shape to fill."""
        with reporting(progress) as callback:
            return self._core.score(
                ids, positions=positions, out=out, cancel=cancel, progress=callback
            )

    @spelled_out
    def text_session(
        self, session_id: str | None = None, max_kv_tokens: int | None = None
    ) -> TextSession:
        """A new context. session_id: a name of yours for it, None makes one. max_kv_tokens: the
        most tokens it may hold."""
        return TextSession(
            self._core.text_session(session_id, _integer("max_kv_tokens", max_kv_tokens))
        )

    @spelled_out
    def chat_session(
        self,
        system: str | None = None,
        messages: Iterable[Message] = (),
        chat_template: str | None = None,
    ) -> ChatSession:
        """A new conversation. system: the first message. messages: an earlier conversation, dicts
        of role and content. chat_template: a Jinja template in place of the model's own."""
        from .chat import ChatSession, first_messages
        from .chat_prompt import ChatPrompt

        first = first_messages(system, messages)
        prompt = ChatPrompt(
            self._tokenizer, self._chat_template(chat_template), self._control_spellings()
        )
        return ChatSession(self._core.text_session(None, None), prompt, first)

    def _chat_template(self, source: str | None) -> ChatTemplate:
        from .template import ChatTemplate

        if source is not None:
            if not isinstance(source, str):
                raise TypeError(f"chat_template: wants str, has {type(source).__name__}")
            return ChatTemplate(source)
        if self._template is None:
            own = self._tokenizer.chat_template
            if own is None:
                raise TemplateError("this model has no chat template; give one as chat_template=")
            self._template = ChatTemplate(own)
        return self._template

    def _control_spellings(self) -> Spellings:
        from .chat_prompt import Spellings

        if self._spellings is None:
            self._spellings = Spellings(self._tokenizer.control_texts)
        return self._spellings

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
        """`TextSession.generate` in a session of its own."""
        with self.text_session() as session:
            return session.generate(prompt, params=params, cancel=cancel, timeout=timeout)

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
        """`TextSession.stream` in a session of its own, which ends with the stream."""
        core = self._core.text_session(None, None)
        return TokenStream(
            core.start(prompt, core_params(params), cancel, timeout, owns_session=True)
        )

    @spelled_out
    def chat(
        self,
        messages: Iterable[Message],
        *,
        chat_template: str | None = None,
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
        """The answer to a conversation, in a session of its own."""
        with self.chat_session(messages=messages, chat_template=chat_template) as session:
            _check_not_empty(session)
            return session._send([], params, cancel, timeout)

    @spelled_out
    def chat_stream(
        self,
        messages: Iterable[Message],
        *,
        chat_template: str | None = None,
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
        """The same as a stream; its session ends with it."""
        session = self.chat_session(messages=messages, chat_template=chat_template)
        _check_not_empty(session)
        return session._start([], params, cancel, timeout, owns_session=True)

    def close(self) -> None:
        """Ends what runs and frees the model. Any thread; a second close does nothing."""
        self._core.close()

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
        info = self.info
        return (
            f"<Engine {info.model_name or info.model_path!r}: {info.architecture}, "
            f"n_threads={info.n_threads}, context_length={info.context_length}, isa={info.isa}, "
            f"weights={info.weight_bytes / 1e6:.1f} MB, "
            f"kv={info.kv_bytes_per_token / 1e3:.1f} kB a token"
            f"{', closed' if self.closed else ''}>"
        )


def _integer(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: wants int, has {type(value).__name__}")
    number = value.__index__()
    if abs(number) >= 1 << 63:
        raise InvalidArgumentError(f"{name}: out of range")
    return int(number)


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: wants bool, has {type(value).__name__}")


def _check_not_empty(session: ChatSession) -> None:
    if not session._messages:
        raise InvalidArgumentError("messages: is empty")
