"""A batch from one thread: every prompt a request, the results in the order of the prompts."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import ContextLengthError, InvalidArgumentError, QueueFullError, SmallMindError
from .params import SamplingParams, core_params
from .results import GenerationResult

if TYPE_CHECKING:
    from .progress import Progress

# More than the engine runs side by side, so that it always has the next at hand; the memory of
# requests that only wait is bounded.
_MAX_IN_FLIGHT = 256
_SLICE_MS = 20
_PROGRESS_INTERVAL_S = 0.056  # at most 20 times a second, with the last call at the end


def checked_prompts(tokenizer: _core.Tokenizer, prompts: Any, limit: int) -> list[list[int]]:
    """The ids of each prompt as a session would make them; what is wrong with one is raised with
    its index. limit: what a context holds."""
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts: wants a list of prompts, has {type(prompts).__name__}")
    return [_checked(tokenizer, prompt, i, limit) for i, prompt in enumerate(prompts)]


def _checked(tokenizer: _core.Tokenizer, prompt: Any, i: int, limit: int) -> list[int]:
    try:
        if isinstance(prompt, str):
            ids = tokenizer.encode(prompt, add_special=False)
            if prompt and tokenizer.add_bos and tokenizer.bos_id is not None:
                ids = [tokenizer.bos_id, *ids]
        elif isinstance(prompt, Iterable) and not isinstance(prompt, bytes):
            ids = list(prompt)
            tokenizer.decode(ids)  # looks at every id
        else:
            raise TypeError(f"wants str or token ids, has {type(prompt).__name__}")
    except SmallMindError as error:
        raise _of(i, error) from None
    except TypeError as error:
        raise TypeError(f"prompts[{i}]: {error}") from None
    if not ids:
        raise InvalidArgumentError(f"prompts[{i}]: is empty")
    if len(ids) >= limit:
        raise ContextLengthError(
            f"prompts[{i}]: has {len(ids)} tokens; the context holds {limit}, and at least one "
            "must be left to generate"
        )
    return ids


def _of(i: int, error: SmallMindError) -> SmallMindError:
    return type(error)(f"prompts[{i}]: {error}", error.code)


def params_of_each(params: SamplingParams | None, n_prompts: int) -> Sequence[_core.Params]:
    """With a seed, prompt i has the seed plus i, so that equal prompts give different texts."""
    if params is None or params.seed is None:
        return [core_params(params)] * n_prompts
    first = params.seed
    return [core_params(params.replace(seed=(first + i) % (1 << 64))) for i in range(n_prompts)]


class Batch:
    """The requests of one `generate_many`; used in the caller's thread only."""

    def __init__(
        self,
        start: Callable[[int], _core.Stream],
        n_prompts: int,
        report: Progress | None,
    ) -> None:
        self._start = start
        self._report = report
        self._next = 0
        self._running: dict[int, _core.Stream] = {}
        self._results: list[GenerationResult | None] = [None] * n_prompts
        self._n_done = 0
        self._reported_at = 0.0
        self._waker = _core.Waker()
        self._news = select.poll()
        self._news.register(self._waker.fileno(), select.POLLIN)

    def run(self) -> list[GenerationResult]:
        try:
            while self._n_done < len(self._results):
                self._submit()
                self._tell()
                self._news.poll(_SLICE_MS)
                # Without news all are asked: a deadline may have passed that nobody else looks at.
                self._collect(self._waker.take_ready() or list(self._running))
        except BaseException:
            for stream in self._running.values():
                stream.close()
            raise
        self._tell()
        return [result for result in self._results if result is not None]

    def _submit(self) -> None:
        """Starts what the queue takes. Once something of this batch was taken, a full queue is no
        error: it waits for its turn."""
        while self._next < len(self._results) and len(self._running) < _MAX_IN_FLIGHT:
            try:
                stream = self._start(self._next)
            except QueueFullError:
                if self._next == 0:
                    raise
                return
            except SmallMindError as error:
                raise _of(self._next, error) from None
            self._running[self._next] = stream
            stream.attach(self._waker, self._next)
            self._next += 1

    def _collect(self, candidates: list[int]) -> None:
        for i in candidates:
            stream = self._running.get(i)
            try:
                if stream is None or not stream.poll_end():
                    continue
            except SmallMindError as error:
                raise _of(i, error) from None
            self._results[i] = stream.partial_result()
            del self._running[i]
            self._n_done += 1

    def _tell(self) -> None:
        if self._report is None:
            return
        now = time.monotonic()
        is_done = self._n_done == len(self._results)
        if is_done or now - self._reported_at >= _PROGRESS_INTERVAL_S:
            self._reported_at = now
            self._report("generate", self._n_done, len(self._results))
