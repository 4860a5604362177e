"""What every measurement says beside its figures: machine, compiler, commit, model, options, the
versions of other engines, raw samples."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallmind.cli.machine import compiler, machine, sha256

_LOAD_BEFORE = round(os.getloadavg()[0], 2)
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))


def arguments(what: str, *, model: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=what)
    if model:
        parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--json", type=Path, help="where the receipt goes; default: results/")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of the engine")
    return parser


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno", "cpp", "bindings", "python"],
        capture_output=True,
        text=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _compiler(built: Path | None) -> str:
    if built is None:
        module = importlib.util.find_spec("smallmind._core")
        assert module is not None and module.origin is not None
        built = Path(module.origin)
    return compiler(built)


def summary(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Median, p95, p99 and the raw samples."""
    from load import percentile

    return {
        "unit": unit,
        "n": len(values),
        "median": round(statistics.median(values), 6),
        "p95": round(percentile(values, 95), 6),
        "p99": round(percentile(values, 99), 6),
        "max": round(max(values), 6),
        "samples": [round(value, 6) for value in values],
    }


def bound(figures: dict[str, Any], name: str, value: float, at_most: float | None = None,
          at_least: float | None = None) -> None:  # fmt: skip
    """A figure with the bound that it is held to."""
    limit = at_most if at_most is not None else at_least
    held = value <= limit if at_most is not None else value >= limit  # type: ignore[operator]
    figures[name] = {
        "value": round(value, 6),
        "at_most" if at_most is not None else "at_least": limit,
        "held": held,
    }


def write(options: argparse.Namespace, name: str, figures: dict[str, Any]) -> None:
    """Prints the figures without samples and writes the receipt."""
    print(json.dumps(_without_samples(figures), indent=1))
    save(options, name, figures)


def save(
    options: argparse.Namespace, name: str, figures: dict[str, Any], built: Path | None = None
) -> None:
    """Writes the receipt. `built`: the binary that was measured, if not the installed package."""
    today = datetime.date.today().isoformat()
    model: Path | None = getattr(options, "model", None)
    receipt: dict[str, Any] = {
        "what": " ".join(["python", f"tests/bench/{name}.py", *_named_arguments()]),
        "date": today,
        "commit": _commit(),
        "machine": machine(),
        "compiler": _compiler(built),
        "load_before": _LOAD_BEFORE,
        "model": f"{model.name} sha256 {sha256(model)}" if model else None,
        **figures,
    }
    stem = f"-{model.stem}" if model else ""
    path = options.json or Path(__file__).parent / "results" / (
        f"{today}-{receipt['commit']}-{name}{stem}.json"
    )
    text = json.dumps(receipt, indent=1)
    # Samples on one line.
    text = re.sub(r"\[[\d\s.,e-]+\]", lambda found: " ".join(found.group().split()), text)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"receipt: {path}")


def _named_arguments() -> list[str]:
    """As given, without the folders of this machine."""

    def named(word: str) -> str:
        return Path(word).name if os.path.exists(word) else word

    words = [re.split(r"([,=])", a) for a in sys.argv[1:] if "json" not in a]
    return ["".join(map(named, parts)) for parts in words]


def _without_samples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_samples(v) for k, v in value.items() if k != "samples"}
    return value
