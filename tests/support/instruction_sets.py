"""Which instruction sets of the engine this processor has, for tests that force one: read from the
system and not from the library under test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"})
_NEEDS: Mapping[str, frozenset[str]] = {
    "generic": frozenset(),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "avx2_vnni": frozenset({"avx2", "fma", "f16c", "avx_vnni"}),
    "avx512": _AVX512,
    "avx512_bf16": _AVX512 | {"avx512_bf16"},
    "avx512_amx": _AVX512 | {"avx512_bf16", "amx_tile", "amx_int8"},
    "neon": frozenset({"asimddp"}),
}


def _processor(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


_FLAGS = frozenset((_processor("flags") or _processor("Features")).split())
HERE = [isa for isa, flags in _NEEDS.items() if flags <= _FLAGS]
MISSING = sorted(_NEEDS.keys() - set(HERE))
# The fastest last: what comes with dots of bfloat16 pairs is slower on Intel's processors.
_SLOW = {"avx512_bf16"} if _processor("vendor_id") == "GenuineIntel" else set()
BY_SPEED = sorted(_NEEDS, key=lambda isa: isa not in _SLOW)
