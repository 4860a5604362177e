"""The same bits whatever the instruction set, the number of threads and the company.

Each run is a process of its own, because the instruction set is chosen once a process. Issue 3:
16 threads each with its own session, greedy and seeded, equal to the same session alone, under
SMALLMIND_ISA=generic, avx2, avx2_vnni, avx512, avx512_bf16, avx512_amx and neon, with 1 and 2
threads; with either cache type.
Hazard A-35; promise 2 of the design.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from instruction_sets import BY_SPEED, HERE, MISSING
from tiny_models import EVERY_TYPE, GEMMA_MIX, SMOLLM_MIX, TYPES, TinySpec, write_tiny

PROBE = Path(__file__).resolve().parent.parent / "support" / "identity_probe.py"
SAMPLING = {
    "greedy": {"max_tokens": 12, "temperature": 0.0},
    "seeded": {"max_tokens": 12, "temperature": 0.9, "seed": 20},
}
# Different from the first word on, and of different lengths, so that steps mix their positions.
PROMPTS = [
    f"{word} {'and the other one ' * (i % 5)}was"
    for i, word in enumerate(
        (
            "Rain", "Yesterday", "A door", "Seven", "Nobody", "The red bird", "Under ice", "Why",
            "Once", "Paper", "My uncle", "If", "Slowly", "Bread", "North", "Her name",
        )
    )
]  # fmt: skip


if MISSING:
    print(f"not run here: {', '.join(MISSING)} (the processor lacks it)")
RUNS = [(isa, n_threads) for isa in HERE for n_threads in (1, 2)]


def probe(model: Path, tmp_path: Path, isa: str, n_threads: int, **plan: Any) -> dict[str, Any]:
    """What identity_probe.py saw; the forced instruction set must be the one that ran."""
    whole = {"ids": [], "prompts": [], "at_once": False, "sampling": {}, **plan}
    plan_path = tmp_path / f"plan_{isa}_{n_threads}.json"
    plan_path.write_text(json.dumps({**whole, "n_threads": n_threads}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(PROBE), str(model), str(plan_path)],
        env={**os.environ, "SMALLMIND_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert f"isa={isa}," in found.pop("engine")
    return found


def all_equal(model: Path, tmp_path: Path, **plan: Any) -> dict[str, Any]:
    first: dict[str, Any] = {}
    for isa, n_threads in RUNS:
        found = probe(model, tmp_path, isa, n_threads, **plan)
        first = first or found
        assert found == first, f"{isa} with {n_threads} threads differs from {RUNS[0]}"
    return first


def ids_for(n: int, n_vocab: int) -> list[int]:
    return [(i * i * 7 + i * 13 + 5) % n_vocab for i in range(n)]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize(
    ("kind", "cache_type"),
    [
        *((kind, "bf16") for kind in (*TYPES, "smollm-mix", "gemma-mix", "every-type")),
        ("gemma-mix", "q8_0"),
    ],
)
def test_tiny_models_score_and_generate_the_same_on_every_isa(
    architecture: str, kind: str, cache_type: str, tmp_path: Path
) -> None:
    mixes = {"smollm-mix": SMOLLM_MIX, "gemma-mix": GEMMA_MIX, "every-type": EVERY_TYPE}
    spec = TinySpec(
        architecture=architecture,
        type="F32" if kind in mixes else kind,
        types=mixes.get(kind, {}),
        tied=kind != "every-type",
        softcap=5.0 if kind == "gemma-mix" else 0.0,
        n_vocab=331,  # no multiple of a panel of 16 rows
    )
    model = write_tiny(tmp_path / "tiny.gguf", spec)
    found = all_equal(
        model,
        tmp_path,
        ids=ids_for(150, 256),
        prompts=PROMPTS[:2],
        sampling=SAMPLING,
        cache_type=cache_type,
    )
    # A sampler that ignored the weights would be equal too.
    outputs = [tuple(v[0]) for name in SAMPLING for v in found[name].values()]
    assert len(set(outputs)) > 1


@pytest.mark.parametrize("cache_type", ["bf16", "q8_0"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_sixteen_tiny_sessions_at_once_equal_each_alone_on_every_isa(
    architecture: str, cache_type: str, tmp_path: Path
) -> None:
    types = SMOLLM_MIX if architecture == "llama" else GEMMA_MIX
    model = write_tiny(tmp_path / "tiny.gguf", TinySpec(architecture=architecture, types=types))
    plan = {"prompts": PROMPTS, "sampling": SAMPLING, "cache_type": cache_type}
    alone = probe(model, tmp_path, HERE[-1], 1, **plan)
    assert len({tuple(v[0]) for v in alone["greedy"].values()}) > 1
    assert all_equal(model, tmp_path, at_once=True, **plan) == alone


@pytest.mark.parametrize(
    ("model", "cache_type"), [("smollm2", "bf16"), ("smollm2", "q8_0"), ("gemma3", "bf16")]
)
def test_real_models_score_the_same_bytes_on_every_isa(
    model: str, cache_type: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = Path(request.getfixturevalue(model))
    n = 40 if model == "smollm2" else 12  # 262,144 logits each are slow on the generic set
    all_equal(path, tmp_path, ids=ids_for(n, 40_000), slab=n, cache_type=cache_type)


def test_sixteen_sessions_of_the_default_model_equal_each_alone_on_every_isa(
    smollm2: str, tmp_path: Path
) -> None:
    short = {name: {**sampling, "max_tokens": 4} for name, sampling in SAMPLING.items()}
    plan = {"prompts": [p.replace("and the other one ", "") for p in PROMPTS], "sampling": short}
    path = Path(smollm2)
    alone = probe(path, tmp_path, HERE[-1], 1, **plan)
    assert all_equal(path, tmp_path, at_once=True, **plan) == alone


def test_the_fastest_instruction_set_is_taken_unasked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", TinySpec(n_layers=1))
    code = "import sys, smallmind as sm; print(sm.Engine(sys.argv[1]).info.isa)"
    monkeypatch.delenv("SMALLMIND_ISA", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # The library may find one that this system does not list.
    assert BY_SPEED.index(done.stdout.strip()) >= max(BY_SPEED.index(isa) for isa in HERE)


def test_an_unknown_instruction_set_is_a_typed_error(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", TinySpec(n_layers=1))
    code = (
        "import sys, smallmind as sm\n"
        "try:\n    sm.Engine(sys.argv[1])\n"
        "except sm.InvalidArgumentError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        env={**os.environ, "SMALLMIND_ISA": "avx1024"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "avx1024" in done.stdout and "SMALLMIND_ISA" in done.stdout
