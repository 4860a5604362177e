"""Plays mixes in processes of their own, one for each instruction set and number of threads, and
compares every answer with its solo run, which is computed here, on the best instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mixes
from instruction_sets import HERE
from tiny_models import TinySpec, write_tiny

PROBE = Path(__file__).with_name("mix_probe.py")
TIMEOUT_S = 7_200
KEPT = 5  # differences and errors that are reported in full


def tiny_model(folder: Path, architecture: str, context_length: int = 1_024) -> Path:
    """As small as it gets: what is mixed is requests; formats and shapes have their own tests."""
    spec = TinySpec(
        architecture=architecture,
        n_embd=64,
        n_ff=96,
        n_heads=2,
        n_kv_heads=1,
        head_dim=32,
        context_length=context_length,
        type="Q8_0",
        types={"ffn_up": "Q4_1", "attn_v": "Q5_0"},
        chat_template=mixes.CHAT_TEMPLATE,
    )
    return write_tiny(folder / f"{architecture}.gguf", spec)


@dataclass(frozen=True)
class Run:
    isa: str
    n_threads: int


RUNS = [Run(isa, n_threads) for isa in HERE for n_threads in (1, 2)]


@dataclass
class Report:
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    isas: list[str] = field(default_factory=list)  # those that ran
    differences: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    n_differences: int = 0
    n_errors: int = 0

    def difference(self, text: str) -> None:
        self.n_differences += 1
        self.differences = [*self.differences, text][:KEPT]

    def error(self, text: str) -> None:
        self.n_errors += 1
        self.errors = [*self.errors, text][:KEPT]


def compare(
    model: Path,
    world: str,
    runs: Sequence[Run],
    *,
    first_seed: int,
    n_mixes: int,
    fresh: bool = False,
    tiny_floats: bool = False,
) -> Report:
    """world: tiny or real. fresh: a new engine for every solo run."""
    report = Report()
    size = mixes.TINY if world == "tiny" else mixes.REAL
    plan = {
        "world": world, "first_seed": first_seed, "n_mixes": n_mixes, "tiny_floats": tiny_floats,
    }  # fmt: skip
    with mixes.Solo(model, size.context_length, fresh=fresh) as solo:
        for run in runs:
            _play(model, {**plan, "n_threads": run.n_threads}, run.isa, solo, report)
    return report


def _play(model: Path, plan: dict[str, object], isa: str, solo: mixes.Solo, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "out").open("w+") as out:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(PROBE), str(model), str(path)],
            env={**os.environ, "SMALLMIND_ISA": isa},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            report.error(f"{isa} {plan}: ended with {done.returncode}: {done.stderr[-4_000:]}")
            return
        out.seek(0)
        for line in out:
            _take(json.loads(line), f"{isa}, {plan['n_threads']} threads", solo, report)


def _take(line: dict[str, object], who: str, solo: mixes.Solo, report: Report) -> None:
    if "error" in line:
        report.error(f"{who}: {line['error']}")
    elif "isa" in line:
        report.isas.append(str(line.pop("isa")))
        report.counts.update(line)  # type: ignore[arg-type]
    else:
        call = mixes.Call(**line)  # type: ignore[arg-type]
        bias = call.sampling.get("logit_bias")
        if bias:  # JSON has no integer keys
            call.sampling["logit_bias"] = {int(key): value for key, value in bias.items()}
        report.kinds[call.kind] += 1
        different = solo.difference(call)
        if different:
            report.difference(f"{who}: {different}")
