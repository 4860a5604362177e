"""Where the time of the compute threads goes: by part, in percent, for four kinds of work.

    pip install . --config-settings=install.strip=false
    python tests/bench/breakdown.py MODEL [--only stream,prompt] [--seconds 5]

Samples this process from outside with `perf record` (Debian: linux-perf), so that a release holds
no clock for it. The system's own account of each thread says how long it ran, and how long it could
have run but another process had the processor, which is left out; the rest is idle.
"""

from __future__ import annotations

import collections
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import receipt
from load import ids_of, together

import smallmind as sm

FREQUENCY = 1_999
COMPUTE_THREADS = ("smallmind-loop", "smallmind-gang")
TAKEN, IDLE = "taken by other processes", "idle"
# Of products, the weights' format is the part; of the others, the first that matches has it.
PRODUCT = re.compile(r"kernel::(\w+)<smallmind::simd::\w+, smallmind::quant::(\w+)(, true)?")
PARTS = (
    ("attention", r"kernel::(attend|attention|weigh|softmax|fold_|exp<|tanh<)|::attend\b"),
    ("writing keys and values", r"kernel::(store_|round_bf16)"),
    ("quantising inputs", r"kernel::quantize"),
    ("norms, activations, rope", r"kernel::(rms_norm|gated|add<|scale<|softcap|rope)|sin_cos"),
    ("sampling", r"kernel::(all_finite|highest)|Sampler|Candidates|sum_of_exponentials"),
    ("coarse pass of few tokens", r"kernel::coarse"),
    ("products, beside the panels", r"kernel::matmul|PanelShares|dequantize_row"),
    ("fresh memory", r"clear_page|memset|page_fault|anonymous_page|handle_mm_fault|unmap_page"),
    ("hand-over between threads", r"Gang|yield|futex|sched|task_switch|spin_unlock_irq"),
    ("other kernels", r"kernel::"),
    ("plan, publish, text", r"smallmind::"),
)
KINDS = {  # sessions at once, tokens of a prompt, tokens generated
    "stream": (1, 8, 256),
    "streams": (16, 8, 128),
    "prompt": (1, 512, 1),
    "long": (1, 4_000, 1),
}


def part_of(symbol: str) -> str:
    product = PRODUCT.search(symbol)
    if product is not None:
        name, weights, fine = product.groups()
        # A coarse pass finds where the exact logits are worth computing.
        is_coarse = name.startswith("coarse") or "HighestOut" in symbol
        is_fine = fine or re.search(r"EveryBlock<[\w:]+, true>", symbol)
        how = ", coarse" if is_coarse else ", two planes" if is_fine else ""
        return f"weights {weights}{how}"
    found = (name for name, pattern in PARTS if re.search(pattern, symbol))
    return next(found, "the system and the rest")


def repeat(engine: sm.Engine, kind: str, stop: threading.Event) -> None:
    """One kind of work after another until told to stop; every prompt is new to the cache."""
    n_sessions, n_prompt, n_tokens = KINDS[kind]
    salts = iter(range(1 << 30))

    def generate() -> None:
        ids = ids_of(n_prompt, f"{kind} {next(salts)}", engine.info.n_vocab)
        engine.generate(ids, max_tokens=n_tokens, temperature=0, ignore_eos=True)

    while not stop.is_set():
        together([generate] * n_sessions)


def perf(*arguments: str) -> str:
    try:
        done = subprocess.run(["perf", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit("breakdown: perf is not installed; on Debian: linux-perf") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"breakdown: perf {arguments[0]}: {error.stderr.strip()}") from None
    return done.stdout


def compute_threads() -> list[Path]:
    tasks = Path("/proc/self/task").iterdir()
    return [task for task in tasks if (task / "comm").read_text().strip() in COMPUTE_THREADS]


def scheduled() -> tuple[float, float]:
    """Seconds that the compute threads ran so far, and that they waited for a processor."""
    accounts = [(task / "schedstat").read_text().split() for task in compute_threads()]
    return sum(int(a[0]) for a in accounts) / 1e9, sum(int(a[1]) for a in accounts) / 1e9


def sample(engine: sm.Engine, kind: str, seconds: float) -> tuple[list[str], float, float, float]:
    """A line `ADDRESS SYMBOL` for each sample; the seconds that passed, and scheduled() of them."""
    stop = threading.Event()
    worker = threading.Thread(target=repeat, args=(engine, kind, stop))
    worker.start()
    try:
        time.sleep(0.5)
        with tempfile.TemporaryDirectory() as folder:
            data = f"{folder}/perf.data"
            threads = ",".join(task.name for task in compute_threads())
            before, start = scheduled(), time.perf_counter()
            perf(
                "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", data,
                "-t", threads, "--", "sleep", str(seconds),
            )  # fmt: skip
            after, end = scheduled(), time.perf_counter()
            lines = perf("script", "-i", data, "-F", "ip,sym").splitlines()
            return lines, end - start, after[0] - before[0], after[1] - before[1]
    finally:
        stop.set()
        worker.join()


def shares(lines: Sequence[str], whole: float, ran: float, waited: float) -> dict[str, float]:
    """Percent of the compute threads' time, most first, less what other processes took of it, which
    comes last as percent of all."""
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        counts[part_of(line.strip().partition(" ")[2])] += 1
    if not any(name.startswith("weights") for name in counts):
        raise SystemExit(
            "breakdown: the module has no symbols; pip install with "
            "--config-settings=install.strip=false"
        )
    undisturbed = whole - waited
    computing = 100 * ran / undisturbed / counts.total()
    return {
        **{name: round(computing * n, 1) for name, n in counts.most_common()},
        IDLE: round(100 * max(0, 1 - ran / undisturbed), 1),
        TAKEN: round(100 * waited / whole, 1),
    }


def main() -> None:
    parser = receipt.arguments("where the time of a token goes")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of work, by comma")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with sm.Engine(options.model, n_threads=options.threads) as engine:
        for kind in options.only.split(","):
            lines, wall, ran, waited = sample(engine, kind, options.seconds)
            figures[kind] = shares(lines, wall * options.threads, ran, waited)
    names = list(dict.fromkeys(name for of_kind in figures.values() for name in of_kind))
    print(f"{'percent of the compute threads':32}" + "".join(f"{kind:>9}" for kind in figures))
    for name in [*(name for name in names if name not in (IDLE, TAKEN)), IDLE, TAKEN]:
        cells = "".join(f"{of_kind.get(name, 0):>9}" for of_kind in figures.values())
        print(f"{name:32}{cells}")
    receipt.save(options, "breakdown", {"unit": "% of the compute threads' time", **figures})


if __name__ == "__main__":
    main()
