"""The reference graph with the product's two roundings: eight-bit activations, bfloat16 attention.

Written from the frozen formulas of the arithmetic, not from the kernels. The sums stay NumPy's, so
an engine agrees up to float rounding and to the rare code that such a rounding tips over to its
neighbour. What remains is far under the quantisation noise, behind which a comparison with fp32
alone could hide a slightly wrong unpacking or piece border.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from reference import Array, ReferenceModel

BLOCK = 32  # inputs that share a scale
PIECE = 64  # keys that share a maximum, from absolute multiples of 64
UNQUANTISED = ("F32", "F16", "BF16")


def eight_bit(x: Array) -> Array:
    """What a product sees of x: a scale amax / 127 and an int8 code for each 32 inputs."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    tiny = amax < 2.0**-100
    codes = np.rint(blocks * (np.float32(127) / np.where(tiny, np.float32(1), amax)))
    codes = np.where(tiny, np.float32(0), codes)
    # The scale meets the code in x's own type: in float64 the product of both is exact.
    scale = (amax / np.float32(127)).astype(x.dtype)
    out: Array = (codes.astype(x.dtype) * scale).reshape(x.shape)
    return out


def to_bf16(x: Array) -> Array:
    """To nearest, ties to even, sixteen bits. REQUIRES: finite input."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    out: Array = bits.view(np.float32).astype(x.dtype)
    return out


def attend_in_pieces(q: Array, k: Array, v: Array, visible: npt.NDArray[np.bool_]) -> Array:
    """One head. Each piece has its own maximum and bfloat16 probabilities; pieces fold in order."""
    n, n_keys = visible.shape
    best = np.full((n, 1), -np.inf)
    total = np.zeros((n, 1))
    out = np.zeros((n, v.shape[1]), q.dtype)
    scores = np.where(visible, (q @ k.T) * q.dtype.type(1 / np.sqrt(q.shape[1])), -np.inf)
    for start in range(0, n_keys, PIECE):
        part = scores[:, start : start + PIECE]
        rows = visible[:, start : start + PIECE].any(axis=1)
        top = part[rows].max(axis=1, keepdims=True)
        p = to_bf16(np.exp(part[rows] - top))
        higher = np.maximum(best[rows], top)
        old, new = np.exp(best[rows] - higher), np.exp(top - higher)
        out[rows] = out[rows] * old + (p @ v[start : start + PIECE]) * new
        total[rows] = total[rows] * old + p.sum(axis=1, keepdims=True) * new
        best[rows] = higher
    return out / total


class SimulatedModel(ReferenceModel):
    """`exact` names the tensors whose inputs the engine keeps finer than eight bits, if any."""

    def __init__(
        self,
        path: Path,
        dtype: type[np.floating[Any]] = np.float64,
        exact: tuple[str, ...] = (),
    ) -> None:
        super().__init__(path, dtype)
        self.exact = exact

    def product(self, x: Array, name: str) -> Array:
        keep = self.kinds[name] in UNQUANTISED or any(role in name for role in self.exact)
        return super().product(x if keep else eight_bit(x), name)

    def mix(self, q: Array, k: Array, v: Array, visible: npt.NDArray[np.bool_]) -> Array:
        q, k, v = to_bf16(q), to_bf16(k), to_bf16(v)
        group = q.shape[1] // k.shape[1]
        heads = [
            attend_in_pieces(q[:, h], k[:, h // group], v[:, h // group], visible)
            for h in range(q.shape[1])
        ]
        return np.concatenate(heads, axis=1)
