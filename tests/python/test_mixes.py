"""Random mixes: every answer is, bit for bit, what the same request gives alone.

Issue 4: lengths, samplers, joins, cancels, chats, forks, salts, slow readers, evictions and both
cache types, 1 to 16 sequences at once, on each family x instruction set x 1 and 2 threads. The
quick run plays some dozens; `tests/bench/random_mixes.py` plays thousands. Hazards A-35, L-03,
L-10; promise 2 of the design.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import flush_to_zero
import mix_runs
from instruction_sets import HERE
from tiny_models import TinySpec, write_tiny

import smallmind as sm


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_every_answer_in_a_mix_is_the_answer_alone(architecture: str, tmp_path: Path) -> None:
    model = mix_runs.tiny_model(tmp_path, architecture)
    runs = mix_runs.RUNS
    report = mix_runs.compare(model, "tiny", runs, first_seed=0, n_mixes=8, fresh=True)
    assert report.errors == []
    assert report.differences == []
    # What would make the comparison empty.
    counts = report.counts
    assert report.isas == [run.isa for run in runs]
    assert counts["calls"] > 30 * len(runs)
    assert counts["calls"] * 0.1 < counts["early"] < counts["calls"] * 0.7
    assert min(counts["cached"], counts["evicted"], counts["forks"]) > 0
    # L-10, A37: nothing runs on, and no session stays.
    assert (counts["left running"], counts["left open"]) == (0, 0)


def test_real_models_answer_in_a_mix_as_alone(smollm2: Path) -> None:
    run = mix_runs.Run(HERE[-1], 2)
    report = mix_runs.compare(smollm2, "real", [run], first_seed=8, n_mixes=2)
    assert report.errors == []
    assert report.differences == []
    assert report.counts["calls"] > 5


def test_gemma_answers_in_a_mix_as_alone(gemma3: Path) -> None:
    run = mix_runs.Run(HERE[-1], 2)
    report = mix_runs.compare(gemma3, "real", [run], first_seed=9, n_mixes=1)
    assert report.errors == []
    assert report.differences == []


# Flushing of subnormal numbers in the caller's threads --------------------------------------------


def faint(folder: Path) -> Path:
    """A tiny model whose logits are subnormal numbers: a thread that flushes them sees zeros."""
    path = write_tiny(folder / "faint.gguf", TinySpec())
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name == "output_norm.weight":
            tensor.data[:] *= np.float32(1e-40)
    return path


def test_a_caller_that_flushes_subnormal_numbers_changes_nothing(tmp_path: Path) -> None:
    model = faint(tmp_path)
    ids = list(range(20, 60))

    def answers() -> tuple[bytes, list[int]]:
        with sm.Engine(model, n_threads=2) as engine:
            scores = engine.score(ids)
            greedy = engine.generate(ids, max_tokens=8, temperature=0, ignore_eos=True)
            return scores.tobytes(), greedy.token_ids

    before = flush_to_zero.control_word()
    expected = answers()
    scores = np.frombuffer(expected[0], np.float32)
    # The test could fail: there are subnormal logits, and the choice hangs on them.
    assert 0 < np.abs(scores).max() < 1.2e-38 and set(expected[1]) != {0}
    try:
        flush_to_zero.set_in_this_thread()
        assert float(np.abs(scores * np.float32(1)).max()) == 0
        flushing = flush_to_zero.control_word()
        seen = answers()
        assert flush_to_zero.control_word() == flushing  # and the caller's setting is his own
    finally:
        flush_to_zero.set_control_word(before)
    assert seen == expected


def test_mixes_of_callers_that_flush_are_the_same(tmp_path: Path) -> None:
    model = mix_runs.tiny_model(tmp_path, "llama")
    run = mix_runs.Run(HERE[-1], 2)
    report = mix_runs.compare(model, "tiny", [run], first_seed=16, n_mixes=4, tiny_floats=True)
    assert report.errors == []
    assert report.differences == []
