"""The reference graph with the product's two roundings: eight-bit activations, bfloat16 attention
(and, where asked for, keys and values that were kept in eight bits).

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
ONE_PLANE, TWO_PLANES = 127, 128 * 127  # the largest code
FINE_ROLES = ("attn_v", "output", "token_embd")
UNQUANTISED = ("F32", "F16", "BF16")


def quantised(x: Array, largest: int) -> Array:
    """What a product sees of x: for each 32 inputs a scale amax / largest and integer codes."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    tiny = amax < 2.0**-100
    codes = np.rint(blocks * (np.float32(largest) / np.where(tiny, np.float32(1), amax)))
    codes = np.where(tiny, np.float32(0), codes)
    # The scale meets the code in x's own type: in float64 the product of both is exact.
    scale = (amax / np.float32(largest)).astype(x.dtype)
    out: Array = (codes.astype(x.dtype) * scale).reshape(x.shape)
    return out


def to_bf16(x: Array) -> Array:
    """To nearest, ties to even, sixteen bits. REQUIRES: finite input."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    out: Array = bits.view(np.float32).astype(x.dtype)
    return out


def through_q8_cache(x: Array) -> Array:
    """Rows as a q8_0 cache gives them back: of 32 elements a bfloat16 scale and integer codes."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, BLOCK)
    scale = to_bf16(np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127))
    scale = np.where(scale < 2.0**-56, np.float32(0), scale)
    inverse = np.where(scale > 0, np.float32(1) / np.where(scale > 0, scale, 1), np.float32(0))
    out: Array = to_bf16(np.rint(blocks * inverse) * scale).reshape(x.shape).astype(x.dtype)
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
    """`fine` names the roles (attn_v, ffn_down, output, token_embd, ...) whose inputs have two
    planes of codes; a tied output is token_embd.
    """

    def __init__(
        self,
        path: Path,
        dtype: type[np.floating[Any]] = np.float64,
        fine: tuple[str, ...] = FINE_ROLES,
        cache_type: str = "bf16",
    ) -> None:
        super().__init__(path, dtype)
        self.fine = fine
        self.cached = {"bf16": to_bf16, "q8_0": through_q8_cache}[cache_type]

    def product(self, x: Array, name: str) -> Array:
        if self.kinds[name] in UNQUANTISED:
            return super().product(x, name)
        fine = name.split(".")[-2] in self.fine
        return super().product(quantised(x, TWO_PLANES if fine else ONE_PLANE), name)

    def mix(self, q: Array, k: Array, v: Array, visible: npt.NDArray[np.bool_]) -> Array:
        q, k, v = to_bf16(q), self.cached(k), self.cached(v)
        group = q.shape[1] // k.shape[1]
        heads = [
            attend_in_pieces(q[:, h], k[:, h // group], v[:, h // group], visible)
            for h in range(q.shape[1])
        ]
        return np.concatenate(heads, axis=1)
