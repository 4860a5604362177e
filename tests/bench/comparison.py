"""compare.py of the requirements' bench folder, with a receipt of the whole measurement.

python tests/bench/comparison.py SM,G3 --engines smallmind,llama.cpp --rounds 3 \\
    --python llama.cpp=PEERS/bin/python

On a processor with AMX that folder has openvino run without it (ONEDNN_MAX_CPU_ISA). openvino then
also has to be told to compute in f32, as it does by itself where there are no instructions for
bfloat16: it would ask for that here and find no kernel. (Its import is then not in its load_s.)
`--tiles` lets it use AMX, in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import receipt

from smallmind.cli.machine import cpu_features

PACKAGES = {"llama.cpp": "llama-cpp-python", "xllamacpp": "xllamacpp", "openvino": "openvino-genai"}
WITHOUT_TILES = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
# Run by every Python at its start: compare.py sets no other property than the threads.
IN_F32 = """
import sys

if sys.orig_argv[2:3] == ["openvino"]:
    import openvino_genai

    Pipeline = openvino_genai.LLMPipeline
    openvino_genai.LLMPipeline = lambda *arguments, **properties: Pipeline(
        *arguments, **properties, INFERENCE_PRECISION_HINT="f32"
    )
"""


def version(engine: str, python: str) -> str:
    package = PACKAGES[engine]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"comparison: {package} is not installed in the Python of {engine}")
    return f"{package} {done.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="the comparison with other engines")
    parser.add_argument("models", help="GGUF files, divided by commas")
    parser.add_argument("--engines", default="smallmind,llama.cpp,xllamacpp,openvino")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PYTHON")
    parser.add_argument("--bench", type=Path, default=receipt.ROOT.parent / "shared" / "bench")
    parser.add_argument("--tiles", action="store_true", help="openvino may use AMX, in bfloat16")
    parser.add_argument("--json", type=Path, help="where the receipt goes; default: results/")
    options = parser.parse_args()
    pythons = dict(entry.split("=", 1) for entry in options.python)
    engines = options.engines.split(",")
    has_choice = "openvino" in engines and "amx_int8" in cpu_features()
    without_tiles = has_choice and not options.tiles
    result: dict[str, Any] = {
        "openvino": {**WITHOUT_TILES, "INFERENCE_PRECISION_HINT": "f32"} if without_tiles else {},
        "peers": {
            engine: version(engine, pythons.get(engine, sys.executable))
            for engine in engines
            if engine != "smallmind"
        },
        "models": {
            Path(model).name: f"sha256 {receipt.sha256(Path(model))}"
            for model in options.models.split(",")
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [
            sys.executable, str(options.bench / "compare.py"), "--engines", options.engines,
            "--models", options.models, "--threads", options.threads,
            "--rounds", str(options.rounds), "--json", str(rows),
            *(word for entry in options.python for word in ("--python", entry)),
        ]  # fmt: skip
        environment = dict(os.environ)
        if without_tiles:
            (Path(folder) / "sitecustomize.py").write_text(IN_F32, encoding="utf-8")
            paths = (folder, environment.get("PYTHONPATH"))
            environment.update(WITHOUT_TILES, PYTHONPATH=os.pathsep.join(filter(None, paths)))
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        result["rows"] = json.loads(rows.read_text(encoding="utf-8"))
    print(done.stdout)
    result["medians"] = done.stdout.splitlines()
    receipt.save(options, "comparison", result)


if __name__ == "__main__":
    main()
