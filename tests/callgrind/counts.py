"""Instructions of a chunk of 128 tokens amid a prompt, of one that is all outputs (prefill),
and of a decode step, for each weight format (B86).

    python tests/callgrind/counts.py BUILD            compares with counts.json; fails at + 3 %
    python tests/callgrind/counts.py BUILD --update   writes counts.json anew

BUILD is a build folder with the C++ tests, as Release. Counts do not depend on the machine or on
what else it does, but on the compiler: another one than counts.json names is said, and its counts
are compared all the same. Valgrind knows no AVX-512, so the instruction set is AVX2.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from tiny_models import GEMMA_MIX, SMOLLM_MIX, TYPES, TinySpec, write_tiny  # noqa: E402

COUNTS = HERE / "counts.json"
LIMIT = 1.03
STEPS = {"chunk", "prefill", "decode"}
ISA = "avx2"
SPECS = {
    **{name: TinySpec(n_layers=1, type=name) for name in TYPES},
    "llama with SmolLM2's formats": TinySpec(n_layers=1, types=SMOLLM_MIX),
    "gemma3 with Gemma's formats": TinySpec("gemma3", n_layers=1, types=GEMMA_MIX),
}

Counts = dict[str, dict[str, int]]


def measure(steps: Path, folder: Path) -> Counts:
    models = [write_tiny(folder / f"{i}.gguf", spec) for i, spec in enumerate(SPECS.values())]
    out = folder / "counts"
    command = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
               f"--callgrind-out-file={out}", str(steps), *map(str, models)]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "SMALLMIND_ISA": ISA})
    found: Counts = {name: {} for name in SPECS}
    for dump in sorted(folder.glob("counts.*"), key=lambda path: int(path.suffix[1:])):
        text = dump.read_text(encoding="utf-8")
        label = re.search(r"^desc: Trigger: Client Request: (\d+) (\w+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if label is None or total is None:
            raise SystemExit(f"counts: callgrind wrote no label or total into {dump.name}")
        found[list(SPECS)[int(label[1])]][label[2]] = int(total[1])
    missing = [name for name, counts in found.items() if set(counts) != STEPS]
    if missing:
        raise SystemExit(f"counts: callgrind gave no counts of {', '.join(missing)}")
    return found


def compiler(build: Path) -> str:
    """As CMake found it."""
    text = "".join(p.read_text() for p in build.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"))
    words = [
        re.search(rf'set\(CMAKE_CXX_COMPILER_{key} "([^"]+)"\)', text) for key in ("ID", "VERSION")
    ]
    return " ".join(word[1] for word in words if word is not None) or "unknown"


def compare(before: Counts, now: Counts) -> list[str]:
    """Prints a row for each count; returns those that are above the limit, or new."""
    failures = []
    print(f"{'':30} {'':8} {'recorded':>12} {'now':>12}  ratio")
    for name, counts in now.items():
        for step, count in counts.items():
            recorded = before.get(name, {}).get(step)
            if recorded is None:
                failures.append(f"{name}, {step}: not recorded")
                continue
            ratio = count / recorded
            print(f"{name:30} {step:8} {recorded:>12} {count:>12}  {ratio:.4f}")
            if ratio > LIMIT:
                failures.append(f"{name}, {step}: {100 * (ratio - 1):+.1f} %")
            if ratio < 1 / LIMIT:
                print(f"{'':30} record that gain with --update: the gate does not hold it yet")
    failures += [f"{name}: recorded, but gone" for name in before if name not in now]
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description="the gate against slower steps")
    parser.add_argument("build", type=Path)
    parser.add_argument("--update", action="store_true", help="writes counts.json anew")
    options = parser.parse_args()
    steps = options.build / "tests" / "callgrind" / "callgrind_steps"
    if not steps.exists():
        raise SystemExit(f"counts: {steps} was not built; it needs valgrind's header")
    with tempfile.TemporaryDirectory() as folder:
        now = measure(steps, Path(folder))
    built_by = compiler(options.build)
    if options.update:
        record = {"compiler": built_by, "isa": ISA, "instructions": now}
        COUNTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"counts: {COUNTS.name} written, {built_by}")
        return
    record = json.loads(COUNTS.read_text(encoding="utf-8"))
    failures = compare(record["instructions"], now)
    if record["compiler"] != built_by:
        print(
            f"counts: recorded with {record['compiler']}, now built by {built_by}: if only the "
            "compiler differs, record anew with --update"
        )
    if failures:
        raise SystemExit(
            f"counts: above the recorded by more than {100 * (LIMIT - 1):.0f} %:\n  "
            + "\n  ".join(failures)
            + "\nMend it, or record anew with --update and say why in the commit."
        )


if __name__ == "__main__":
    main()
