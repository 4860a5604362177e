"""Sampling parameters, and how keywords become them."""

from __future__ import annotations

import functools
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from . import _core
from .errors import InvalidArgumentError

P = ParamSpec("P")
R = TypeVar("R")

# What other engines call our keywords.
_OTHER_NAMES = {
    "buffer_size": "max_buffered_tokens",
    "cache_dtype": "cache_type",
    "cache_type_k": "cache_type",
    "cache_type_v": "cache_type",
    "eos": "ignore_eos",
    "freq_penalty": "frequency_penalty",
    "id": "session_id",
    "k": "top_k",
    "kv_cache_bytes": "kv_limit",
    "kv_cache_dtype": "cache_type",
    "kv_cache_memory": "kv_limit",
    "kv_cache_size": "kv_limit",
    "kv_cache_type": "cache_type",
    "kv_type": "cache_type",
    "max_buffer": "max_buffered_tokens",
    "max_kv_bytes": "kv_limit",
    "max_kv_size": "max_kv_tokens",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_num_seqs": "max_queue_depth",
    "max_output_tokens": "max_tokens",
    "max_queue_size": "max_queue_depth",
    "model": "path",
    "model_path": "path",
    "n_ctx": "context_length",
    "n_parallel": "max_queue_depth",
    "n_predict": "max_tokens",
    "name": "session_id",
    "num_ctx": "context_length",
    "num_predict": "max_tokens",
    "num_threads": "n_threads",
    "on_overflow": "on_full",
    "p": "top_p",
    "pres_penalty": "presence_penalty",
    "queue_size": "max_queue_depth",
    "random_seed": "seed",
    "repeat_penalty_window": "repeat_last_n",
    "repetition_penalty": "repeat_penalty",
    "request_timeout_s": "request_timeout",
    "salt": "cache_salt",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "system_prompt": "system",
    "temp": "temperature",
    "tenant": "fairness_key",
    "threads": "n_threads",
    "timeout_s": "timeout",
    "top_logprobs": "logprobs",
    "type_k": "cache_type",
    "type_v": "cache_type",
    "use_cache": "enable_kv_cache",
    "user": "fairness_key",
}


def spelled_out(function: Callable[P, R]) -> Callable[P, R]:
    """For functions that take keywords: an unknown one is a TypeError with a suggestion.

    Where the function takes `params`, the sampling keywords that the caller gave are laid over it:
    the function reads `params` only, and its sampling keywords are there for signatures and
    editors.
    """
    code = function.__code__
    names = frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    call: Callable[..., R] = function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        keywords: dict[str, Any] = dict(kwargs)
        unknown = keywords.keys() - names
        if unknown:
            raise TypeError(_unknown_keyword(function.__qualname__, min(unknown), names))
        if "params" in names:
            given = {name: keywords.pop(name) for name in _FIELDS if name in keywords}
            keywords["params"] = _merged(keywords.get("params"), given)
        return call(*args, **keywords)

    return checked


def _unknown_keyword(function: str, name: str, names: frozenset[str]) -> str:
    suggestion = _OTHER_NAMES.get(name)
    if suggestion not in names:
        import difflib

        close = difflib.get_close_matches(name, sorted(names - {"self"}), n=1)
        suggestion = close[0] if close else None
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    return f"{function}() got an unexpected keyword argument {name!r}{hint}"


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: wants int, has {type(value).__name__}")
    number = operator.index(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidArgumentError(f"{name} = {_short(number)}: out of range")
    return number


def _short(number: int) -> str:
    n_bits = number.bit_length()
    return str(number) if n_bits <= 128 else f"an integer of {n_bits} bits"


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: wants float, has {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgumentError(f"{name}: out of range") from None


def _stops(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, Sequence) or isinstance(stop, (bytes, bytearray)):
        raise TypeError(f"stop: wants str or a list of str, has {type(stop).__name__}")
    for i, text in enumerate(stop):
        if not isinstance(text, str):
            raise TypeError(f"stop[{i}]: wants str, has {type(text).__name__}")
    return tuple(stop)


def _biases(bias: Any) -> tuple[tuple[int, float], ...]:
    if bias is None:
        return ()
    if not isinstance(bias, Mapping):
        raise TypeError(f"logit_bias: wants a dict of token id and bias, has {type(bias).__name__}")
    return tuple(
        (_integer(f"logit_bias key {key!r:.40}", key), _number(f"logit_bias[{key!r:.40}]", value))
        for key, value in list(bias.items())
    )


@dataclass(frozen=True, init=False, repr=False)
class SamplingParams:
    """How tokens are chosen. Immutable and reusable: `session.generate(text, params=params)`.

    A keyword given beside `params=` wins over the value in it.
    """

    max_tokens: int | None
    """None: 512 or what the context leaves, whichever is less."""
    temperature: float
    """0 is greedy."""
    top_k: int
    """0: off."""
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_last_n: int
    """The window of the three penalties, in tokens; 0: off."""
    presence_penalty: float
    frequency_penalty: float
    stop: tuple[str, ...]
    ignore_eos: bool
    logit_bias: tuple[tuple[int, float], ...]
    """Pairs of token id and what is added to its logit; -inf bans it."""
    logprobs: int | None
    """0 to 20 alternatives for each token."""
    seed: int | None
    """None: drawn for each call, and returned in the result."""

    @spelled_out
    def __init__(
        self,
        *,
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
    ) -> None:
        if not isinstance(ignore_eos, bool):
            raise TypeError(f"ignore_eos: wants bool, has {type(ignore_eos).__name__}")
        fields: dict[str, Any] = {
            "max_tokens": None if max_tokens is None else _integer("max_tokens", max_tokens),
            "temperature": _number("temperature", temperature),
            "top_k": _integer("top_k", top_k),
            "top_p": _number("top_p", top_p),
            "min_p": _number("min_p", min_p),
            "repeat_penalty": _number("repeat_penalty", repeat_penalty),
            "repeat_last_n": _integer("repeat_last_n", repeat_last_n),
            "presence_penalty": _number("presence_penalty", presence_penalty),
            "frequency_penalty": _number("frequency_penalty", frequency_penalty),
            "stop": _stops(stop),
            "ignore_eos": ignore_eos,
            "logit_bias": _biases(logit_bias),
            "logprobs": None if logprobs is None else _integer("logprobs", logprobs),
            "seed": None if seed is None else _seed(seed),
        }
        core = _core.Params(**{**fields, "logit_bias": list(fields["logit_bias"])})
        core.validate(1 << 31)  # against the model's own vocabulary with each request
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_core", core)

    def replace(self, **fields: Any) -> SamplingParams:
        """A copy with other values for some fields."""
        kept = {name: getattr(self, name) for name in _FIELDS}
        kept["logit_bias"] = dict(self.logit_bias)
        return SamplingParams(**{**kept, **fields})

    def __repr__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name in _FIELDS
            if getattr(self, name) != getattr(DEFAULTS, name)
        ]
        return f"SamplingParams({', '.join(changed)})"

    def __reduce__(self) -> tuple[Callable[..., SamplingParams], tuple[dict[str, Any]]]:
        fields = {name: getattr(self, name) for name in _FIELDS}
        return _from_fields, ({**fields, "logit_bias": dict(self.logit_bias)},)


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed: wants int, has {type(seed).__name__}")
    number = operator.index(seed)
    if not 0 <= number < 1 << 64:
        raise InvalidArgumentError(f"seed = {_short(number)}: must be 0 ... 2^64-1")
    return number


def _from_fields(fields: dict[str, Any]) -> SamplingParams:
    return SamplingParams(**fields)


def _merged(params: Any, given: dict[str, Any]) -> SamplingParams:
    if params is None:
        return SamplingParams(**given) if given else DEFAULTS
    if not isinstance(params, SamplingParams):
        raise TypeError(f"params: wants SamplingParams, has {type(params).__name__}")
    return params.replace(**given) if given else params


def core_params(params: SamplingParams | None) -> _core.Params:
    """The core's form of what `spelled_out` left in `params`."""
    core: _core.Params = (params or DEFAULTS).__dict__["_core"]
    return core


_FIELDS = tuple(SamplingParams.__dataclass_fields__)
DEFAULTS = SamplingParams()
