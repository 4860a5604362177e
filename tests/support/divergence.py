"""KL(reference || other) in nats from raw logits, and its summary over positions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


CACHE_ELEMENTS = 1 << 20  # of a row block; larger ones wait for memory


def kl_rows(reference: Array, other: Array) -> npt.NDArray[np.float64]:
    """One divergence a row, summed in float64. NaN in either gives NaN, never a small value."""
    if reference.shape != other.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {other.shape}")
    n, width = reference.shape
    step = max(1, CACHE_ELEMENTS // width)
    out = np.empty(n, np.float64)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        out[rows] = _kl_few_rows(reference[rows], other[rows])
    return out


def _kl_few_rows(reference: Array, other: Array) -> npt.NDArray[np.float64]:
    a = reference - reference.max(axis=1, keepdims=True)
    b = other - other.max(axis=1, keepdims=True)
    e = np.exp(b)
    z_other = e.sum(axis=1, dtype=np.float64)
    np.exp(a, out=e)
    z = e.sum(axis=1, dtype=np.float64)
    a -= b
    a *= e
    return np.asarray(a.sum(axis=1, dtype=np.float64) / z - np.log(z) + np.log(z_other))


@dataclass(frozen=True)
class Summary:
    n_positions: int
    mean_kl: float
    p99_kl: float
    top1_agreement: float

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass
class Accumulator:
    """Collects slabs of logits; one thread."""

    kl: list[npt.NDArray[np.float64]] = field(default_factory=list)
    same_top: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, reference: Array, other: Array) -> None:
        self.same_top.append(reference.argmax(axis=1) == other.argmax(axis=1))
        self.kl.append(kl_rows(reference, other))

    def summary(self) -> Summary:
        kl = np.concatenate(self.kl)
        if not np.isfinite(kl).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(kl))} positions have no finite KL")
        return Summary(
            n_positions=int(kl.size),
            mean_kl=float(kl.mean()),
            p99_kl=float(np.quantile(kl, 0.99)),
            top1_agreement=float(np.concatenate(self.same_top).mean()),
        )
