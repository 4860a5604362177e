"""From nothing to a first session: the import, the load, and the most memory that it took.

    python tests/bench/start.py MODEL.gguf [--rounds 9]
Each round is a process of its own on a warm page cache. Bounds (issue 5): the import <= 25 ms over
NumPy's, Engine() <= 1.2 ms for each MB of the file, peak memory over Python with NumPy <= file + KV
in use + max(24 MiB, 8 %) after a session of 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import receipt

ROUND = """
import json, sys, time
import numpy

def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

model, n_threads = sys.argv[1], int(sys.argv[2])
with open(model, "rb") as file:
    while file.read(1 << 24):
        pass
before, start = peak(), time.perf_counter()
import smallmind
imported = time.perf_counter()
engine = smallmind.Engine(model, n_threads=n_threads)
loaded = time.perf_counter()
with engine.text_session() as session:
    session.generate([5] * 500, max_tokens=12, temperature=0, ignore_eos=True)
    in_use = engine.memory().kv_in_use
print(json.dumps({"import_s": imported - start, "load_s": loaded - imported,
                  "peak": peak() - before, "kv": in_use}))
"""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-c", ROUND, str(options.model), str(options.threads)]
    rounds = [json.loads(subprocess.check_output(command)) for _ in range(options.rounds)]
    n_file = options.model.stat().st_size
    figures: dict[str, Any] = {"rounds": options.rounds, "file_bytes": n_file}
    imports = [1e3 * r["import_s"] for r in rounds]
    loads = [1e9 * r["load_s"] / n_file for r in rounds]
    receipt.bound(figures, "import, ms over NumPy", statistics.median(imports), at_most=25)
    receipt.bound(figures, "Engine(), ms a MB", statistics.median(loads), at_most=1.2)
    most = max(r["peak"] - r["kv"] for r in rounds)
    allowed = n_file + max(24 << 20, n_file * 8 // 100)
    receipt.bound(figures, "peak without KV, bytes", most, at_most=allowed)
    figures["import"] = receipt.summary(imports, "ms")
    figures["load"] = receipt.summary([1e3 * r["load_s"] for r in rounds], "ms")
    figures["peak"] = receipt.summary([r["peak"] / 1e6 for r in rounds], "MB")
    return figures


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    receipt.write(options, "start", measure(options))


if __name__ == "__main__":
    main()
