"""What `inspect_file` gives back. Imported when it is first used."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FileSummary", "KeyValue", "TensorSummary"]


@dataclass(frozen=True)
class KeyValue:
    key: str
    type: str
    value: str


@dataclass(frozen=True)
class TensorSummary:
    name: str
    type: str
    dims: tuple[int, ...]
    """Fastest first."""
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class FileSummary:
    """What a GGUF file says about itself; its strings are escaped and cut."""

    version: int
    alignment: int
    file_bytes: int
    metadata: tuple[KeyValue, ...]
    tensors: tuple[TensorSummary, ...]
