"""Each kernel beside what the machine can do: bandwidth of its memory, peaks of its instructions.

python tests/bench/roofline.py build/bench/tests/bench/kernels_bench [--only matmul/q4_1]
    SMALLMIND_ISA=avx2 measures that instruction set against its own peaks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import receipt

# Of the measured bandwidth at 1 to 4 tokens, of the integer peak at 16 and at 128.
BARS = {1: ("bandwidth", 80), 2: ("bandwidth", 80), 4: ("bandwidth", 80),
        16: ("int8", 50), 128: ("int8", 58)}  # fmt: skip
FIRST_RANK = ("q4_1", "q8_0")
SECOND_RANK = ("q5_0", "q6_k", "q4_k")  # within 15 % of those


@dataclass(frozen=True)
class Figure:
    """One benchmark: medians over its repetitions, and the samples."""

    name: str
    n_threads: int
    bytes_per_s: float
    operations_per_s: float
    items_per_s: float
    samples_ns: tuple[float, ...]


def measure(binary: Path, only: str, repetitions: int) -> tuple[list[Figure], dict[str, Any]]:
    command = [
        str(binary), f"--benchmark_filter={only}", f"--benchmark_repetitions={repetitions}",
        "--benchmark_format=json", "--benchmark_enable_random_interleaving=true",
        "--benchmark_min_time=0.1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        raise SystemExit(f"roofline: {binary.name} ended with {done.returncode}: {done.stderr}")
    report = json.loads(done.stdout)
    runs: dict[str, list[dict[str, Any]]] = {}
    order = ("family_index", "per_family_instance_index", "repetition_index")
    each = [run for run in report["benchmarks"] if run["run_type"] == "iteration"]
    for run in sorted(each, key=lambda run: [run[key] for key in order]):
        runs.setdefault(run["run_name"], []).append(run)
    return [figure(name, samples) for name, samples in runs.items()], report["context"]


def figure(name: str, samples: Sequence[dict[str, Any]]) -> Figure:
    def median(key: str) -> float:
        return statistics.median(float(sample.get(key, 0)) for sample in samples)

    *parts, threads = name.split("/")
    n_threads = int(threads.removeprefix("threads:"))
    time = "cpu_time" if n_threads == 1 else "real_time"
    return Figure(
        "/".join(part for part in parts if part != "real_time"),
        n_threads,
        median("bytes_per_second"),
        median("op/s"),
        median("items_per_second"),
        tuple(round(float(sample[time])) for sample in samples),
    )


def peaks(figures: Sequence[Figure]) -> dict[int, dict[str, float]]:
    """By number of threads; the better of the two ways to read is the bandwidth."""
    found: dict[int, dict[str, float]] = {}
    for item in figures:
        kind = item.name.removeprefix("peak/")
        if kind == item.name:
            continue
        of_threads = found.setdefault(item.n_threads, {})
        if kind.startswith("read"):
            of_threads["bandwidth"] = max(of_threads.get("bandwidth", 0), item.bytes_per_s)
        else:
            of_threads[kind] = item.operations_per_s
    return found


def share(value: float, peak: float | None) -> float | None:
    return round(100 * value / peak, 1) if peak and value else None


def row(item: Figure, peak: dict[str, float]) -> dict[str, Any]:
    floats = any(f"/{name}/" in item.name for name in ("f32", "f16", "bf16"))
    kind = "bf16" if item.name.startswith("attention") else "fp32" if floats else "int8"
    streamed = item.name.endswith("/streamed")
    return {
        "name": item.name,
        "threads": item.n_threads,
        "gb_per_s": round(item.bytes_per_s / 1e9, 2) or None,
        "of_bandwidth": share(item.bytes_per_s, peak.get("bandwidth")) if streamed else None,
        "gop_per_s": round(item.operations_per_s / 1e9, 1) or None,
        "peak": kind if item.operations_per_s else None,
        "of_peak": share(item.operations_per_s, peak.get(kind)),
        "g_items_per_s": round(item.items_per_s / 1e9, 3) or None,
        "samples": list(item.samples_ns),
    }


def bars(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each streamed product of one plane against its bar."""
    held: dict[str, Any] = {}
    for item in rows:
        parts = item["name"].split("/")
        if parts[0] != "matmul" or parts[4:] != ["planes:1", "streamed"]:
            continue
        factor = 1.0 if parts[1] in FIRST_RANK else 0.85 if parts[1] in SECOND_RANK else None
        against, percent = BARS[int(parts[3].removeprefix("tokens:"))]
        value = item["of_bandwidth" if against == "bandwidth" else "of_peak"]
        if factor is not None and value is not None:
            name = f"{parts[1]} {parts[2]} {parts[3]} threads:{item['threads']} % of {against}"
            receipt.bound(held, name, value, at_least=percent * factor)
    return held


def print_table(rows: Sequence[dict[str, Any]], peak: dict[int, dict[str, float]]) -> None:
    for n_threads, of_threads in sorted(peak.items()):
        each = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in of_threads.items())
        print(f"peaks, {n_threads} thread(s), GB/s and GOP/s: {each}")
    print(f"\n{'':54} threads    GB/s  % bw     GOP/s  % peak    Gitems/s")
    for item in rows:
        numbers = [item[key] for key in ("gb_per_s", "of_bandwidth", "gop_per_s", "of_peak")]
        text = [f"{'' if number is None else number:>8}" for number in numbers]
        items = "" if item["g_items_per_s"] is None else item["g_items_per_s"]
        print(f"{item['name']:54} {item['threads']:>5} {' '.join(text)} {items:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description="kernels against the machine's peaks")
    parser.add_argument("binary", type=Path, help="kernels_bench")
    parser.add_argument("--only", default=".", help="a regular expression over names")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the receipt goes; default: results/")
    options = parser.parse_args()
    figures, context = measure(options.binary, f"peak/|{options.only}", options.repetitions)
    of_machine = peaks(figures)
    rows = [
        row(item, of_machine.get(item.n_threads, {}))
        for item in figures
        if not item.name.startswith("peak/")
    ]
    print_table(rows, of_machine)
    result = {
        "isa": context["isa"],
        "streamed_bytes": int(context["streamed_bytes"]),
        "peaks": {f"threads:{n}": values for n, values in of_machine.items()},
        "bars": bars(rows),
        "kernels": rows,
    }
    receipt.save(options, "roofline", result, built=options.binary)


if __name__ == "__main__":
    main()
