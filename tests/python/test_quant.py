"""The committed quantisation vectors are what `gguf` says they are; C++ tests read them.

Guards the oracle of tests/cpp/quant (byte-exact dequantise of every format, issue 3 item 3).
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import make_quant_vectors as vectors

FORMATS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K")
MAX_BYTES = 150_000


def read(name: str) -> tuple[int, int, int, bytes, np.ndarray]:
    data = (vectors.GOLDEN / f"{name}.bin").read_bytes()
    n_blocks, block_bytes, block_elements = struct.unpack_from("<3I", data)
    end = 12 + n_blocks * block_bytes
    return n_blocks, block_bytes, block_elements, data[12:end], np.frombuffer(data[end:], "<f4")


def test_every_supported_format_has_a_file_and_no_other_exists() -> None:
    found = {p.stem for p in vectors.GOLDEN.glob("*.bin")}
    assert found == set(FORMATS)
    assert sum(p.stat().st_size for p in vectors.GOLDEN.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize("name", FORMATS)
def test_committed_vectors_are_regenerated_byte_for_byte(name: str) -> None:
    assert (vectors.GOLDEN / f"{name}.bin").read_bytes() == vectors.vector_file(name)


@pytest.mark.parametrize("name", FORMATS)
def test_vectors_hold_whole_blocks_and_no_nan(name: str) -> None:
    n_blocks, _, block_elements, _, values = read(name)
    assert values.size == n_blocks * block_elements
    assert not np.isnan(values).any()


@pytest.mark.parametrize(
    ("name", "low", "high"), [("Q4_0", -8, 7), ("Q5_0", -16, 15), ("Q8_0", -128, 127)]
)
def test_vectors_reach_the_extreme_codes_at_every_place_in_a_block(
    name: str, low: int, high: int
) -> None:
    """Codes recovered by dividing by the scale, from a formula written here and not in gguf."""
    n_blocks, block_bytes, block_elements, blocks, values = read(name)
    raw = np.frombuffer(blocks, np.uint8).reshape(n_blocks, block_bytes)
    scale = raw[:, :2].copy().view(np.float16).astype(np.float64)
    usable = scale[:, 0] != 0
    codes = values.reshape(n_blocks, block_elements)[usable] / scale[usable]
    assert np.array_equal(codes, np.round(codes))
    assert codes.min() >= low and codes.max() <= high
    assert (codes.min(axis=0) == low).all() and (codes.max(axis=0) == high).all()
