"""Random mixes of requests, every answer compared with its solo run: no difference is allowed.

python tests/bench/random_mixes.py [--mixes 2000]          tiny models, each family x ISA x threads
python tests/bench/random_mixes.py --model M.gguf [--mixes 64]    one real model, the best ISA
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import receipt
from instruction_sets import HERE
from mix_runs import RUNS, Report, Run, compare, tiny_model


def _figures(report: Report, n_mixes: int, n_runs: int, seconds: float) -> dict[str, Any]:
    return {
        "n_mixes": n_mixes,
        "n_runs": n_runs,
        "seconds": round(seconds),
        "isas": report.isas,
        "counts": dict(report.counts),
        "kinds": dict(report.kinds),
        "n_differences": report.n_differences,
        "n_errors": report.n_errors,
        "differences": report.differences,
        "errors": report.errors,
    }


def _options() -> argparse.Namespace:
    parser = receipt.arguments(__doc__ or "", model=False)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--mixes", type=int)
    parser.add_argument("--first-seed", type=int, default=1_000)
    parser.add_argument("--families", default="llama,gemma3")
    parser.add_argument("--isas", default=",".join(HERE))
    return parser.parse_args()


def main() -> None:
    options = _options()
    isas = options.isas.split(",")
    figures: dict[str, Any] = {"first_seed": options.first_seed}
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        if options.model:
            work = [(options.model.stem, options.model, "real", [Run(isas[-1], options.threads)])]
        else:
            runs = [run for run in RUNS if run.isa in isas]
            work = [
                (family, tiny_model(Path(folder), family), "tiny", runs)
                for family in options.families.split(",")
            ]
        n_mixes = options.mixes or (64 if options.model else 2_000)
        for name, model, world, runs in work:
            begin = time.monotonic()
            report = compare(model, world, runs, first_seed=options.first_seed, n_mixes=n_mixes)
            reports.append(report)
            figures[name] = _figures(report, n_mixes, len(runs), time.monotonic() - begin)
    figures["bounds"] = {}
    receipt.bound(
        figures["bounds"], "differences", sum(r.n_differences for r in reports), at_most=0
    )
    receipt.bound(figures["bounds"], "errors", sum(r.n_errors for r in reports), at_most=0)
    if options.model is None:
        del options.model
    receipt.write(options, "random_mixes", figures)


if __name__ == "__main__":
    main()
