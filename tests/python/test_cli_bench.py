"""`smallmind bench`: a receipt that says what it was measured with."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from tiny_models import TinySpec, write_tiny

import smallmind as sm


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smallmind.cli", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("bench") / "tiny.gguf", TinySpec())


def test_receipt_names_machine_build_and_model(tiny: Path) -> None:
    done = bench(str(tiny), "--threads", "1", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    with sm.Engine(tiny, n_threads=1) as engine:
        info = engine.info
    assert receipt["smallmind"] == sm.__version__
    assert receipt["isa"] == info.isa and receipt["threads"] == 1
    assert receipt["architecture"] == "llama" and receipt["model"] == "tiny.gguf"
    assert receipt["model_sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert receipt["model_bytes"] == tiny.stat().st_size
    assert platform.release() in receipt["machine"]
    assert "GCC" in receipt["compiler"] or "clang" in receipt["compiler"]
    flags = Path("/proc/cpuinfo").read_text().split()
    assert receipt["cpu_features"] and set(receipt["cpu_features"]) <= set(flags)
    assert str(tiny.parent) not in done.stdout  # folders are nobody's business


def test_receipt_holds_every_sample(tiny: Path) -> None:
    receipt = json.loads(bench(str(tiny), "--rounds", "3", "--json").stdout)
    rows = receipt["tokens_per_s"]
    assert list(rows) == ["prompt of 512", "1 stream", "4 streams", "16 streams"]
    for row in [*rows.values(), receipt["load_s"]]:
        assert len(row["samples"]) == 3 and min(row["samples"]) > 0
        assert row["median"] == sorted(row["samples"])[1]
    # Weights and pages of a tiny model are small beside Python with NumPy.
    assert tiny.stat().st_size < receipt["peak_memory_bytes"] < 512 << 20


def test_a_short_context_shortens_the_prompt(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "short.gguf", TinySpec(context_length=96))
    done = bench(str(path), "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "prompt of 95 " in done.stdout
    assert "sha256 " + hashlib.sha256(path.read_bytes()).hexdigest() in done.stdout


def test_what_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "nothing.gguf", TinySpec(context_length=9))
    for arguments in ([str(path)], [str(tmp_path / "missing.gguf")]):
        done = bench(*arguments)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("smallmind: ")
    assert bench(str(path), "--rounds", "0").returncode == 2
