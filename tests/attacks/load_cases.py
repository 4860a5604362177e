"""Loads hostile files one after the other in a process of its own, and says what came of each.

    python load_cases.py [--from N]       the cases of cases.py, from the N-th on
    python load_cases.py --files FOLDER   every file in the folder, by name

Writes JSON lines: {"start": name}, then {"end": name, ...what was seen...}. If the process dies,
the last line is a start without an end: the caller knows which file did it and goes on after it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases

import smallmind

GOOD_EVERY = 25  # cases between two loads of a good model
PROMPT = "the thing and the other"


def status_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(field)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def golden(path: Path) -> list[int]:
    with smallmind.Engine(str(path), n_threads=1) as engine:
        return list(engine.generate(PROMPT, max_tokens=8, temperature=0).token_ids)


def load(path: Path) -> dict[str, object]:
    """Tries to load; what was raised, and what it cost."""
    forget_peak()
    before_kb, descriptors = status_kb("VmRSS"), n_descriptors()
    threads, begin = threading.active_count(), time.process_time()
    seen: dict[str, object] = {"error": None, "code": None, "message": ""}
    try:
        smallmind.Engine(str(path), n_threads=1).close()
    except smallmind.SmallMindError as error:
        seen.update(error=type(error).__name__, code=error.code, message=str(error))
    except BaseException as error:
        seen.update(error=f"untyped {type(error).__name__}", message=str(error))
    seen["cpu_s"] = time.process_time() - begin
    seen["peak_kb"] = status_kb("VmHWM") - before_kb
    seen["descriptors"] = n_descriptors() - descriptors
    seen["threads"] = threading.active_count() - threads
    return seen


def say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def run_cases(first: int, folder: Path) -> None:
    good = {arch: folder / f"good-{arch}.gguf" for arch in cases.ARCHITECTURES}
    for arch, path in good.items():
        path.write_bytes(cases.base(arch).to_bytes())
    expected = {arch: golden(path) for arch, path in good.items()}
    bad = folder / "bad.gguf"
    for index, case in enumerate(cases.all_cases()):
        if index < first:
            continue
        say({"start": case.name})
        bad.write_bytes(case.data)
        seen = load(bad)
        if index % GOOD_EVERY == 0:
            seen["good"] = all(golden(path) == expected[arch] for arch, path in good.items())
        say({"end": case.name, "bytes": len(case.data), **seen})


def files_in(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir())


def run_files(folder: Path) -> None:
    for path in files_in(folder):
        say({"start": path.name})
        say({"end": path.name, **load(path)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Loads hostile files and reports.")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--files", type=Path)
    options = parser.parse_args()
    if options.files:
        run_files(options.files)
        return
    with tempfile.TemporaryDirectory() as folder:
        run_cases(options.first, Path(folder))


if __name__ == "__main__":
    main()
