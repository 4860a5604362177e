"""A base for what stands for something outside Python."""

from __future__ import annotations

from typing import Any


class Uncopyable:
    """Engines, sessions and streams: they refuse pickle and copy, and say what to do instead."""

    _INSTEAD = ""

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied; {self._INSTEAD}")
