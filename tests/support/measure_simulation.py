"""Prints the distance from fp32 of the prescribed arithmetic itself, on the parity texts.

    python tests/support/measure_simulation.py MODEL.gguf [ROLE ... | none]
The engine should land on these figures: they are what eight-bit activations and bfloat16 attention
cost, without any kernel. ROLE names tensors whose inputs have two planes; by default the engine's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from divergence import Accumulator
from reference import ReferenceModel
from simulated import FINE_ROLES, SimulatedModel
from texts import PARITY

SLAB = 128


def main() -> None:
    path, fine = Path(sys.argv[1]), tuple(sys.argv[2:]) or FINE_ROLES
    record = json.loads((PARITY / "llama_cpp.json").read_text(encoding="utf-8"))
    sequences = record["models"][path.stem]["ids"]
    truth = ReferenceModel(path)
    simulated = SimulatedModel(path, np.float32, fine)
    total = Accumulator()
    for name, ids in sequences.items():
        a, b = truth.hidden(ids), simulated.hidden(ids)
        part = Accumulator()
        for start in range(0, len(ids), SLAB):
            rows = slice(start, start + SLAB)
            logits = truth.logits(a[rows]), simulated.logits(b[rows])
            part.add(*logits)
            total.add(*logits)
        print(f"{path.stem} {name}: {part.summary()}")
    print(f"{path.stem}: {total.summary()}")


if __name__ == "__main__":
    main()
