"""What calls give back: frozen, picklable values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .errors import CancelledError, DeadlineError

__all__ = [
    "ChatResult",
    "EngineInfo",
    "EngineMemory",
    "EngineStatus",
    "FinishReason",
    "GenerationResult",
    "Timings",
    "Token",
    "TokenLogprob",
    "Usage",
]

FinishReason = Literal["stop", "length", "cancelled", "timeout"]


@dataclass(frozen=True)
class TokenLogprob:
    """The natural logarithm of a token's probability, before temperature, bias and truncation."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(id, logprob) of the most likely tokens, most likely first, ties by lower id."""

    def __float__(self) -> float:
        return self.logprob


@dataclass(frozen=True)
class Token:
    """One generated token. Its text is empty where it is half a character, or held back because a
    stop string may begin in it."""

    text: str
    id: int
    index: int
    """0 for the first generated token."""
    logprob: TokenLogprob | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    """The whole context before the generation, the session's history included."""
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    """Of `prompt_tokens`, those whose KV was reused."""
    max_tokens: int
    """The limit that applied, given or derived."""
    retokenized: bool = False
    """True when a chat could not keep its ids, because the template changed earlier text."""


@dataclass(frozen=True)
class Timings:
    """Seconds."""

    queue_s: float
    """From the call to the first step."""
    prefill_s: float
    """From the first step to the first token."""
    first_token_s: float
    """From the call to the first token."""
    decode_s: float
    """From the first token to the end."""


@dataclass(frozen=True)
class GenerationResult:
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: list[TokenLogprob] | None
    """One a token where `logprobs` was given, else None."""
    seed: int
    """The seed that was used, given or drawn."""
    session_id: str
    """Of the session that the call was made on."""

    @property
    def code(self) -> str | None:
        """CANCELLED_BY_CALLER or CANCELLED_BY_TIMEOUT after an early end, else None."""
        if self.finish_reason == "cancelled":
            return CancelledError.code
        return DeadlineError.code if self.finish_reason == "timeout" else None

    def check(self) -> None:
        """Raises CancelledError or DeadlineError if the generation was ended early."""
        who, made = f"session {self.session_id!r}", f"after {len(self.token_ids)} tokens"
        if self.finish_reason == "cancelled":
            raise CancelledError(f"{who}: the generation was cancelled by the caller {made}")
        if self.finish_reason == "timeout":
            raise DeadlineError(f"{who}: the generation reached its timeout {made}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ChatResult(GenerationResult):
    message: dict[str, str] = field(default_factory=dict)
    """The assistant's message, as it stands in `messages` now: role and content."""

    __str__ = GenerationResult.__str__


@dataclass(frozen=True)
class EngineInfo:
    """What an engine chose and loaded."""

    architecture: str
    model_name: str
    model_path: str
    isa: str
    n_threads: int
    context_length: int
    n_vocab: int
    n_embd: int
    n_layers: int
    weight_bytes: int
    kv_bytes_per_token: int
    cache_type: str
    kv_limit: int
    """Bytes of keys and values of all sessions together."""


@dataclass(frozen=True)
class EngineMemory:
    """Bytes that an engine holds, by what they are for. What Python, the code and the threads'
    stacks take comes on top."""

    weights: int
    """The packed model."""
    kv: int
    """All pages of keys and values: those of the next two, and some at hand for new requests."""
    kv_in_use: int
    """Of pages that running requests and open sessions hold, as of the last step."""
    kv_cached: int
    """Of pages that are kept for their beginnings only, as of the last step. They are evicted when
    room is needed."""
    kv_limit: int
    """What `kv` may grow to."""
    workspace: int
    """The buffers of a step, set aside for the largest."""
    tokenizer: int
    requests: int
    """Ids, buffered tokens and records of requests, and the ids that sessions keep."""
    total: int
    """`weights` + `kv` + `workspace` + `tokenizer` + `requests`."""
    peak: int
    """The most that `total` ever was."""


@dataclass(frozen=True)
class EngineStatus:
    """What is in use now, and what was done since the engine was loaded."""

    n_sessions: int
    """Open sessions."""
    n_running: int
    """Requests that are computed, or wait for their turn in the next steps."""
    n_queued: int
    """Requests that were not yet admitted to run."""
    n_kv_pages: int
    """Pages of keys and values that running requests and open sessions hold."""
    n_cached_pages: int
    """Pages that are kept for their beginnings only, and evicted when room is needed."""
    kv_bytes: int
    """Of all pages."""
    n_cached_tokens: int
    """Since load: prompt tokens whose keys and values were there."""
    n_computed_tokens: int
    """Since load: prompt tokens that were computed."""
    n_generated_tokens: int
    """Since load."""
    n_evicted_pages: int
    """Since load."""
    n_steps: int
    """Since load."""
