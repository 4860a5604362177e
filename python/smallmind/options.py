"""Options of an engine, checked at the door: a wrong type is a TypeError, a value out of its range
an InvalidArgumentError that names the option, the value and the range."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any, Literal

from .errors import InvalidArgumentError

CacheType = Literal["bf16", "q8_0"]
OnFull = Literal["pause", "error"]

MAX_BUFFERED_TOKENS = 65_536
_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)\s*"


def engine_options(
    *,
    n_threads: int | None,
    context_length: int | None,
    enable_kv_cache: bool,
    cache_type: CacheType,
    kv_limit: int | str | None,
    max_kv_tokens: int | None,
    max_queue_depth: int | None,
    max_buffered_tokens: int,
    on_full: OnFull,
    request_timeout: float | None,
) -> dict[str, Any]:
    """The keywords of `_core.Engine.load`."""
    if not isinstance(enable_kv_cache, bool):
        raise TypeError(f"enable_kv_cache: wants bool, has {type(enable_kv_cache).__name__}")
    for name, value in (("cache_type", cache_type), ("on_full", on_full)):
        if not isinstance(value, str):
            raise TypeError(f"{name}: wants str, has {type(value).__name__}")
    n_buffered = integer("max_buffered_tokens", max_buffered_tokens)
    if n_buffered is None:
        raise TypeError("max_buffered_tokens: wants int, has NoneType")
    if not 1 <= n_buffered <= MAX_BUFFERED_TOKENS:
        raise InvalidArgumentError(
            f"max_buffered_tokens = {n_buffered}: must be 1 ... {MAX_BUFFERED_TOKENS}"
        )
    return {
        "n_threads": integer("n_threads", n_threads),
        "context_length": integer("context_length", context_length),
        "enable_kv_cache": enable_kv_cache,
        "cache_type": cache_type,
        "kv_limit": n_bytes("kv_limit", kv_limit),
        "max_kv_tokens": integer("max_kv_tokens", max_kv_tokens),
        "max_queue_depth": integer("max_queue_depth", max_queue_depth),
        "max_buffered_tokens": n_buffered,
        "on_full": on_full,
        "request_timeout": seconds("request_timeout", request_timeout),
    }


def integer(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: wants int, has {type(value).__name__}")
    number = value.__index__()
    if abs(number) >= 1 << 63:
        raise InvalidArgumentError(f"{name}: out of range")
    return int(number)


def n_bytes(name: str, value: Any) -> int | None:
    """A number of bytes: an int, or a str such as "2GiB" or "500 MB"."""
    if not isinstance(value, str):
        if value is not None and not hasattr(value, "__index__"):
            raise TypeError(f"{name}: wants int or str, has {type(value).__name__}")
        return integer(name, value)
    match = re.fullmatch(_SIZE, value)
    if match is None or match[2] not in _UNITS:
        units = ", ".join(unit for unit in _UNITS if unit)
        raise InvalidArgumentError(f"{name} = {value!r:.40}: must be a number with one of {units}")
    return integer(name, int(float(match[1]) * _UNITS[match[2]]))


def seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: wants float, has {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise InvalidArgumentError(f"{name} = {number}: must be a finite number of seconds > 0")
    return number
