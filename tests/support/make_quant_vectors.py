"""Writes tests/golden/quant/<TYPE>.bin: random and extreme blocks with their float32 values.

The values come from `gguf.quants.dequantize`, so the C++ reference dequantise of every format is
checked against the format's own publisher. A file is little-endian:

    u32 n_blocks, u32 block_bytes, u32 block_elements, the blocks, n_blocks * block_elements float32

Run it again after adding a format:  python tests/support/make_quant_vectors.py
The output depends on the seed below and on nothing else; a test regenerates and compares.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

U8 = npt.NDArray[np.uint8]

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "quant"
SEED = 20_240_607

# Byte offsets of the f16 scales inside a block of each format.
F16_FIELDS: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q6_K": (208,),
}
N_BLOCKS: dict[str, int] = {"Q4_0": 56, "Q4_1": 56, "Q5_0": 56, "Q8_0": 56, "Q4_K": 20, "Q6_K": 20}
N_SCALARS = 1024

# zero, minus zero, the smallest and largest subnormal, the smallest normal, one, minus one, the
# largest finite value and its negative, and an ordinary scale. NaN and infinite scales are left
# out: the sign of the NaN they make is not part of any format.
EXTREME_F16: tuple[int, ...] = (
    0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x2E66,
)  # fmt: skip


def random_finite_f16(rng: np.random.Generator, n: int) -> npt.NDArray[np.uint16]:
    """Bit patterns drawn evenly over all finite halves, so every exponent occurs."""
    bits = rng.integers(0, 0x7C00, n, dtype=np.uint16)
    sign = rng.integers(0, 2, n, dtype=np.uint16) << 15
    return (bits | sign).astype(np.uint16)


def quantised_blocks(rng: np.random.Generator, name: str, block_bytes: int) -> U8:
    """Random blocks; the first have equal codes throughout, the next the extreme scales."""
    n = N_BLOCKS[name]
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    fills = (0x00, 0xFF, 0x80, 0x7F, 0xF0, 0x0F)
    for i, fill in enumerate(fills):
        blocks[i] = fill
    for offset in F16_FIELDS[name]:
        scales = random_finite_f16(rng, n)
        # Code fills keep an ordinary scale; after them every extreme scale meets random codes.
        scales[: len(fills)] = 0x2E66
        start = len(fills)
        k = min(len(EXTREME_F16), n - start)
        scales[start : start + k] = EXTREME_F16[:k]
        blocks[:, offset : offset + 2] = scales.reshape(n, 1).view(np.uint8)
    return blocks


def f32_blocks(rng: np.random.Generator) -> U8:
    special = np.array([0.0, -0.0, 1.0, -1.0, 1e-45, 3.4028235e38, np.inf, -np.inf], np.float32)
    values = rng.standard_normal(N_SCALARS // 4).astype(np.float32)
    values[: special.size] = special
    return values.view(np.uint8).reshape(-1, 4)


def f16_blocks(rng: np.random.Generator) -> U8:
    bits = random_finite_f16(rng, N_SCALARS)
    special = (*EXTREME_F16, 0x7C00, 0xFC00)  # infinities are plain conversions here
    bits[: len(special)] = special
    return bits.view(np.uint8).reshape(-1, 2)


def bf16_blocks(rng: np.random.Generator) -> U8:
    bits = rng.integers(0, 0x7F80, N_SCALARS, dtype=np.uint16)
    bits |= rng.integers(0, 2, N_SCALARS, dtype=np.uint16) << 15
    special = (
        0x0000,
        0x8000,
        0x0001,
        0x8001,
        0x007F,
        0x0080,
        0x3F80,
        0x7F7F,
        0xFF7F,
        0x7F80,
        0xFF80,
    )
    bits[: len(special)] = special
    return bits.view(np.uint8).reshape(-1, 2)


SCALAR_BLOCKS: dict[str, Callable[[np.random.Generator], U8]] = {
    "F32": f32_blocks,
    "F16": f16_blocks,
    "BF16": bf16_blocks,
}


def vector_file(name: str) -> bytes:
    """The bytes of one format's file."""
    # Seeded by the name, so that adding a format leaves the other files as they are.
    rng = np.random.default_rng([SEED, *name.encode()])
    kind = GGMLQuantizationType[name]
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    scalar = SCALAR_BLOCKS.get(name)
    blocks = scalar(rng) if scalar else quantised_blocks(rng, name, block_bytes)
    data = blocks.view(np.float32) if name == "F32" else blocks
    values = np.ascontiguousarray(dequantize(data, kind), dtype="<f4")
    n_blocks = len(blocks)
    if blocks.shape[1] != block_bytes or values.size != n_blocks * block_elements:
        raise RuntimeError(f"{name}: shape {blocks.shape} gives {values.size} values")
    return (
        struct.pack("<3I", n_blocks, block_bytes, block_elements)
        + blocks.tobytes()
        + values.tobytes()
    )


def all_files() -> dict[str, bytes]:
    return {f"{name}.bin": vector_file(name) for name in (*SCALAR_BLOCKS, *F16_FIELDS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=GOLDEN)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, data in all_files().items():
        (out / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
