"""A GGUF file taken apart and put together again, right or wrong.

Reads any well-formed file (those of the `gguf` package, in the tests) into parts that can be
edited one by one, and writes them back without checking anything. Independent of our reader:
written from the description of the format with `struct` alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64", "i64",
              "f64")  # fmt: skip
FORMATS: Mapping[int, str] = {
    U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q",
    I64: "q", F64: "d",
}  # fmt: skip


def number(kind: int, value: float) -> bytes:
    return struct.pack("<" + FORMATS[kind], value)


def string(text: bytes | str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def array(kind: int, elements: Iterable[bytes], length: int | None = None) -> bytes:
    items = list(elements)
    n = len(items) if length is None else length
    return struct.pack("<IQ", kind, n) + b"".join(items)


def numbers(kind: int, values: Iterable[float]) -> bytes:
    return array(kind, (number(kind, value) for value in values))


def strings(values: Iterable[bytes | str]) -> bytes:
    return array(STRING, (string(value) for value in values))


@dataclass(frozen=True)
class Entry:
    key: bytes
    type: int
    value: bytes

    def encoded(self) -> bytes:
        return string(self.key) + struct.pack("<I", self.type) + self.value


@dataclass(frozen=True)
class Tensor:
    name: bytes
    dims: tuple[int, ...]
    type: int
    data: bytes
    offset: int | None = None  # None: where to_bytes puts the data
    n_dims: int | None = None  # None: len(dims)

    def encoded(self, offset: int) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        head = string(self.name) + struct.pack("<I", n_dims)
        extents = b"".join(struct.pack("<Q", d % 2**64) for d in self.dims)
        at = offset if self.offset is None else self.offset
        return head + extents + struct.pack("<IQ", self.type, at % 2**64)


@dataclass(frozen=True)
class GgufFile:
    """Immutable: every edit gives another file."""

    entries: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]
    version: int = 3
    alignment: int = 32
    n_kv: int | None = None  # None: len(entries)
    n_tensors: int | None = None  # None: len(tensors)

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_kv = len(self.entries) if self.n_kv is None else self.n_kv
        parts = [b"GGUF", struct.pack("<IQQ", self.version, n_tensors, n_kv)]
        parts += [entry.encoded() for entry in self.entries]
        offset = 0
        for tensor in self.tensors:
            parts.append(tensor.encoded(offset))
            offset += self._padded(len(tensor.data))
        return b"".join(parts)

    def to_bytes(self) -> bytes:
        head = self.header()
        parts = [head, bytes(self._padded(len(head)) - len(head))]
        for tensor in self.tensors:
            parts += [tensor.data, bytes(self._padded(len(tensor.data)) - len(tensor.data))]
        return b"".join(parts)

    def _padded(self, n: int) -> int:
        return -(-n // self.alignment) * self.alignment

    # ---- edits ----------------------------------------------------------------------------------

    def get(self, key: str) -> Entry:
        return next(entry for entry in self.entries if entry.key == key.encode())

    def has(self, key: str) -> bool:
        return any(entry.key == key.encode() for entry in self.entries)

    def set(self, key: str | bytes, kind: int, value: bytes) -> GgufFile:
        """Replaces the entry where it stands, or adds it at the end."""
        name = key.encode() if isinstance(key, str) else key
        new = Entry(name, kind, value)
        if not any(entry.key == name for entry in self.entries):
            return self.add(new)
        return replace(
            self, entries=tuple(new if entry.key == name else entry for entry in self.entries)
        )

    def set_u32(self, key: str, value: int) -> GgufFile:
        return self.set(key, U32, number(U32, value))

    def add(self, *entries: Entry) -> GgufFile:
        return replace(self, entries=(*self.entries, *entries))

    def without(self, *keys: str) -> GgufFile:
        gone = {key.encode() for key in keys}
        return replace(self, entries=tuple(e for e in self.entries if e.key not in gone))

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def set_tensor(self, name: str, *new: Tensor) -> GgufFile:
        """Replaces the tensor by none, one or several."""
        tensors: list[Tensor] = []
        for tensor in self.tensors:
            tensors += new if tensor.name == name.encode() else [tensor]
        return replace(self, tensors=tuple(tensors))


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        part = self.data[self.at : self.at + n]
        if len(part) != n:
            raise ValueError("the file ends early")
        self.at += n
        return part

    def number(self, kind: int) -> int:
        value: int
        (value,) = struct.unpack("<" + FORMATS[kind], self.take(struct.calcsize(FORMATS[kind])))
        return value

    def string(self) -> bytes:
        return self.take(self.number(U64))

    def value(self, kind: int) -> bytes:
        start = self.at
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            element, n = self.number(U32), self.number(U64)
            for _ in range(n):
                self.value(element)
        else:
            self.number(kind)
        return self.data[start : self.at]


def parse(data: bytes) -> GgufFile:
    """REQUIRES: a good file with an alignment of 32."""
    cursor = _Cursor(data)
    if cursor.take(4) != b"GGUF":
        raise ValueError("not a GGUF file")
    version, n_tensors, n_kv = cursor.number(U32), cursor.number(U64), cursor.number(U64)
    entries = []
    for _ in range(n_kv):
        key, kind = cursor.string(), cursor.number(U32)
        entries.append(Entry(key, kind, cursor.value(kind)))
    infos = []
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.number(U32)
        dims = tuple(cursor.number(U64) for _ in range(n_dims))
        infos.append((name, dims, cursor.number(U32), cursor.number(U64)))
    start = -(-cursor.at // 32) * 32
    ends = [*sorted(info[3] for info in infos), len(data) - start]
    tensors = []
    for name, dims, kind, offset in infos:
        end = next(e for e in ends if e > offset)
        # With its padding: to_bytes then gives every tensor its old place.
        tensors.append(Tensor(name, dims, kind, data[start + offset : start + end]))
    return GgufFile(tuple(entries), tuple(tensors), version)
