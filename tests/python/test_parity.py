"""Engine.score against fp32 on the real models, and against llama.cpp's recorded distance.

The reference runs here, in the test; llama.cpp's figures on the same ids were measured once by
tests/support/measure_llama_cpp.py (issue 3: mean and p99 KL at most 1.0 x on SmolLM2, 0.5 x on
Gemma 3). At least 1,500 positions of English, code and other languages.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import smallmind as sm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from divergence import Accumulator, Summary
from reference import ReferenceModel
from texts import PARITY, TEXTS, file_sha256, sections

MIN_POSITIONS = 1_500
RATIO = {"smollm2": 1.0, "gemma3": 0.5}
SLAB = 512  # positions at once: 0.5 GB of Gemma's logits; each slab computes its prefix anew
ROWS = 64  # of the reference's logits at once
RECORD: dict[str, Any] = json.loads((PARITY / "llama_cpp.json").read_text(encoding="utf-8"))


def measure(engine: Any, reference: ReferenceModel, ids: dict[str, list[int]]) -> Summary:
    total = Accumulator()
    for sequence in ids.values():
        hidden = reference.hidden(sequence)
        for start in range(0, len(sequence), SLAB):
            end = min(start + SLAB, len(sequence))
            ours = engine.score(sequence[:end], positions=list(range(start, end)))
            for at in range(start, end, ROWS):
                rows = slice(at, min(at + ROWS, end))
                total.add(
                    reference.logits(hidden[rows]), ours[rows.start - start : rows.stop - start]
                )
    return total.summary()


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_divergence_from_fp32_is_within_llama_cpp_s(
    model: str, request: pytest.FixtureRequest, record_property: Any
) -> None:
    path = Path(request.getfixturevalue(model))
    record = RECORD["models"][model]
    assert hashlib.sha256(TEXTS.read_bytes()).hexdigest() == RECORD["texts_sha256"]
    assert file_sha256(path) == record["model_sha256"]
    with sm.Engine(str(path), n_threads=2) as engine:
        encode = engine.tokenizer.encode
        for name, text in sections().items():
            assert encode(text, add_special=True) == record["ids"][name], name
        got = measure(engine, ReferenceModel(path), record["ids"])
    record_property("parity", got.as_dict())
    print(
        f"{model}: mean KL {got.mean_kl:.5f} (llama.cpp {record['mean_kl']:.5f}), "
        f"p99 {got.p99_kl:.4f} ({record['p99_kl']:.4f}), "
        f"top-1 {got.top1_agreement:.4f} ({record['top1_agreement']:.4f}), "
        f"{got.n_positions} positions"
    )
    assert got.n_positions == record["n_positions"] >= MIN_POSITIONS
    assert got.mean_kl <= RATIO[model] * record["mean_kl"]
    assert got.p99_kl <= RATIO[model] * record["p99_kl"]
