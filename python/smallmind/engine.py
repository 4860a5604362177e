"""The engine: one model, many sessions."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from . import _core
from .errors import InvalidArgumentError, TemplateError
from .options import CacheType, OnFull, engine_options, integer, seconds
from .params import SamplingParams, core_params, spelled_out
from .progress import Progress, reporting
from .results import ChatResult, EngineInfo, EngineMemory, EngineStatus, GenerationResult
from .session import Prompt, TextSession
from .stream import TokenStream
from .uncopyable import Uncopyable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self

    from .chat import ChatSession, ChatStream, Message
    from .chat_prompt import Spellings
    from .template import ChatTemplate

Path = str | bytes | os.PathLike[str]


class Engine(Uncopyable):
    """One model in memory. Thread-safe: any method, any thread, any time.

    Each session is one growing context and takes one call at a time; the engine computes all that
    run together. `generate`, `generate_many`, `stream`, `chat` and `chat_stream` are the same
    without a session that lives on. A context manager; `close()` ends what runs.
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
        cache_type: CacheType = "bf16",
        kv_limit: int | str | None = None,
        max_kv_tokens: int | None = None,
        max_queue_depth: int | None = None,
        max_buffered_tokens: int = 256,
        on_full: OnFull = "pause",
        request_timeout: float | None = None,
        progress: Progress | bool | None = None,
        cancel: _core.CancellationToken | None = None,
    ) -> None:
        """Loads the model: all or nothing.

        n_threads: compute threads, 1 to 64; None takes what the machine allows.
        context_length: the most tokens of one context; None takes the model's own, or what
            kv_limit holds.
        enable_kv_cache: False keeps no keys and values beyond a request: nothing is shared between
            sessions or kept between the calls of one.
        cache_type: how keys and values are stored, "bf16" or "q8_0", which takes 0.53 of the
            memory.
        kv_limit: bytes of keys and values of all sessions together, as an int or a str such as
            "2GiB"; None takes half of the memory that is free once the model is loaded.
        max_kv_tokens: the most tokens that a session may hold; None: the context length.
        max_queue_depth: how many requests may wait for a place among those that run side by side;
            one more raises QueueFullError at once. None: any number.
        max_buffered_tokens: how many tokens of a stream may wait for its reader, 1 to 65,536.
        on_full: what happens then: "pause" holds that generation until its reader has caught up,
            "error" ends it with BufferFullError. Others go on either way.
        request_timeout: seconds that any request may take, waiting included; the timeout= of a call
            may be earlier. None: no limit.
        progress: called with (stage, done, total) in this thread, at most 20 times a second; what
            it raises ends the load. True shows a tqdm bar.
        cancel: ends the load with CancelledError or DeadlineError.
        """
        options = engine_options(
            n_threads=n_threads,
            context_length=context_length,
            enable_kv_cache=enable_kv_cache,
            cache_type=cache_type,
            kv_limit=kv_limit,
            max_kv_tokens=max_kv_tokens,
            max_queue_depth=max_queue_depth,
            max_buffered_tokens=max_buffered_tokens,
            on_full=on_full,
            request_timeout=request_timeout,
        )
        with reporting(progress) as callback:
            self._core = _core.Engine.load(path, **options, progress=callback, cancel=cancel)
        self._tokenizer = self._core.tokenizer()
        self._longest_context = min(
            self.info.context_length, options["max_kv_tokens"] or self.info.context_length
        )
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
        cache_type: CacheType = "bf16",
        kv_limit: int | str | None = None,
        max_kv_tokens: int | None = None,
        max_queue_depth: int | None = None,
        max_buffered_tokens: int = 256,
        on_full: OnFull = "pause",
        request_timeout: float | None = None,
        progress: Progress | bool | None = None,
        cancel: _core.CancellationToken | None = None,
    ) -> Self:
        """`Engine(...)` for asyncio, in a thread of the default executor; progress comes in the
        event loop. Cancelling the task ends the load."""
        from .aio_load import load_in_thread

        return await load_in_thread(
            cls,
            path,
            progress,
            cancel,
            n_threads=n_threads,
            context_length=context_length,
            enable_kv_cache=enable_kv_cache,
            cache_type=cache_type,
            kv_limit=kv_limit,
            max_kv_tokens=max_kv_tokens,
            max_queue_depth=max_queue_depth,
            max_buffered_tokens=max_buffered_tokens,
            on_full=on_full,
            request_timeout=request_timeout,
        )

    @property
    def tokenizer(self) -> _core.Tokenizer:
        return self._tokenizer

    @property
    def info(self) -> EngineInfo:
        """What was loaded and which defaults were chosen."""
        return self._core.info()

    def status(self) -> EngineStatus:
        """What is in use now, and what was done since the engine was loaded."""
        return self._core.status()

    def memory(self) -> EngineMemory:
        """The bytes that it holds now, by what they are for."""
        return self._core.memory()

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
        _import_numpy()
        with reporting(progress) as callback:
            return self._core.score(
                ids, positions=positions, out=out, cancel=cancel, progress=callback
            )

    @spelled_out
    def text_session(
        self,
        session_id: str | None = None,
        max_kv_tokens: int | None = None,
        *,
        cache_salt: str | None = None,
        fairness_key: str | None = None,
    ) -> TextSession:
        """A new context.

        session_id: a name of yours for it, 1 to 256 bytes of UTF-8; None makes one. It stands in
            its results and in messages, and need not be unique.
        max_kv_tokens: the most tokens it may hold; None: the engine's.
        cache_salt: sessions share the keys and values of equal beginnings only with sessions of the
            same salt, so that nobody learns from timing what others ask; 1 to 256 bytes.
        fairness_key: sessions of one key share one turn: the engine divides its time between the
            keys that wait; 1 to 256 bytes.
        """
        limit = integer("max_kv_tokens", max_kv_tokens)
        return TextSession(self._core.text_session(session_id, limit, cache_salt, fairness_key))

    @spelled_out
    def chat_session(
        self,
        system: str | None = None,
        messages: Iterable[Message] = (),
        chat_template: str | None = None,
        *,
        cache_salt: str | None = None,
        fairness_key: str | None = None,
    ) -> ChatSession:
        """A new conversation. system: the first message. messages: an earlier conversation, dicts
        of role and content. chat_template: a Jinja template in place of the model's own.
        cache_salt, fairness_key: as of `text_session`."""
        from .chat import ChatSession, first_messages
        from .chat_prompt import ChatPrompt

        first = first_messages(system, messages)
        prompt = ChatPrompt(
            self._tokenizer, self._chat_template(chat_template), self._control_spellings()
        )
        core = self._core.text_session(None, None, cache_salt, fairness_key)
        return ChatSession(core, prompt, first)

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
        cache_salt: str | None = None,
        fairness_key: str | None = None,
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
        with self.text_session(cache_salt=cache_salt, fairness_key=fairness_key) as session:
            return session.generate(prompt, params=params, cancel=cancel, timeout=timeout)

    @spelled_out
    def generate_many(
        self,
        prompts: Iterable[Prompt],
        *,
        cache_salt: str | None = None,
        fairness_key: str | None = None,
        progress: Progress | bool | None = None,
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
    ) -> list[GenerationResult]:
        """The results of many prompts, in their order, each in a session of its own.

        All prompts are checked before the first starts, and what is wrong with one is raised with
        its index. They run side by side; where `max_queue_depth` has no room for all, the rest
        waits for its turn, and QueueFullError is raised only if there is none for the first. seed:
        prompt i has the seed `seed + i`; None draws one for each. The timeout (seconds) is one for
        all, counted from this call. A cancel or the timeout ends all, and each result has what was
        made; any exception, Ctrl-C too, ends all and comes out. progress("generate", done, total)
        counts prompts.
        """
        from .many import Batch, checked_prompts, params_of_each

        with reporting(progress) as callback:
            contexts = checked_prompts(self._tokenizer, prompts, self._longest_context)
            sampling = params_of_each(params, len(contexts))
            ends = [] if cancel is None else [cancel]
            if timeout is not None:
                ends.append(_core.CancellationToken(seconds("timeout", timeout)))
            token = _core.CancellationToken.linked(*ends)

            def start(i: int) -> _core.Stream:
                session = self._core.text_session(None, None, cache_salt, fairness_key)
                return session.start(
                    contexts[i], sampling[i], token, None, collect_only=True, owns_session=True
                )

            return Batch(start, len(contexts), callback).run()

    @spelled_out
    def stream(
        self,
        prompt: Prompt,
        *,
        cache_salt: str | None = None,
        fairness_key: str | None = None,
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
        core = self._core.text_session(None, None, cache_salt, fairness_key)
        return TokenStream(
            core.start(prompt, core_params(params), cancel, timeout, owns_session=True)
        )

    @spelled_out
    def chat(
        self,
        messages: Iterable[Message],
        *,
        chat_template: str | None = None,
        cache_salt: str | None = None,
        fairness_key: str | None = None,
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
        with self.chat_session(
            messages=messages,
            chat_template=chat_template,
            cache_salt=cache_salt,
            fairness_key=fairness_key,
        ) as session:
            _check_not_empty(session)
            return session._send([], params, cancel, timeout)

    @spelled_out
    def chat_stream(
        self,
        messages: Iterable[Message],
        *,
        chat_template: str | None = None,
        cache_salt: str | None = None,
        fairness_key: str | None = None,
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
        session = self.chat_session(
            messages=messages,
            chat_template=chat_template,
            cache_salt=cache_salt,
            fairness_key=fairness_key,
        )
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
            f"cache_type={info.cache_type}, kv={info.kv_bytes_per_token / 1e3:.1f} kB a token, "
            f"kv_limit={info.kv_limit / 1e6:.1f} MB"
            f"{', closed' if self.closed else ''}>"
        )


def _import_numpy() -> None:
    """Where it is needed first: it takes as long to import as a small model to load. In a thread of
    its own, because signal handlers run in the main thread only: NumPy cannot be imported again
    after an exception in the middle."""
    if "numpy" not in sys.modules:
        thread = threading.Thread(target=__import__, args=("numpy",), name="smallmind-numpy")
        thread.start()
        thread.join()


def _check_not_empty(session: ChatSession) -> None:
    if not session.messages:
        raise InvalidArgumentError("messages: is empty")
