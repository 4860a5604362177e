"""The programs that judge speed: a figure below its bar shows, and every symbol has its part."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smallmind.cli import machine

from .conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))
sys.path.insert(0, str(ROOT / "tests" / "support"))

import breakdown
import roofline


def streamed(format_name: str, tokens: int, bandwidth: float, peak: float) -> dict[str, Any]:
    name = f"matmul/{format_name}/1536x576/tokens:{tokens}/planes:1/streamed"
    return {"name": name, "threads": 2, "of_bandwidth": bandwidth, "of_peak": peak}


@pytest.mark.parametrize(
    ("row", "held"),
    [
        (streamed("q4_1", 1, 80.0, 5), True),
        (streamed("q4_1", 4, 79.9, 60), False),
        (streamed("q4_1", 16, 20, 50.0), True),
        (streamed("q8_0", 128, 3, 57.9), False),
        (streamed("q6_k", 1, 68.1, 5), True),  # within 15 % of the first rank
        (streamed("q6_k", 128, 3, 49.2), False),
    ],
)
def test_products_are_held_to_their_bars(row: dict[str, Any], held: bool) -> None:
    (figure,) = roofline.bars([row]).values()
    assert figure["held"] is held


def test_two_planes_and_cached_weights_have_no_bar() -> None:
    row = streamed("q4_1", 1, 10.0, 1)
    for other in ("planes:2/streamed", "planes:1/cached"):
        name = row["name"].replace("planes:1/streamed", other)
        assert roofline.bars([{**row, "name": name}]) == {}


def test_the_better_reading_is_the_bandwidth() -> None:
    figures = [
        roofline.figure(f"peak/{kind}/threads:1", [{"cpu_time": 1, "bytes_per_second": rate}])
        for kind, rate in (("read", 30e9), ("read_ahead", 20e9))
    ]
    assert roofline.peaks(figures) == {1: {"bandwidth": 30e9}}


def test_a_figure_is_the_median_of_its_samples() -> None:
    samples = [{"real_time": t, "op/s": t * 1e9} for t in (3.0, 1.0, 2.0)]
    figure = roofline.figure("gemm/f32/512/real_time/threads:2", samples)
    assert (figure.name, figure.n_threads) == ("gemm/f32/512", 2)
    assert figure.operations_per_s == 2e9 and figure.samples_ns == (3, 1, 2)


def test_symbols_find_their_part() -> None:
    simd = "smallmind::simd::Avx512"
    tile = f"smallmind::kernel::panel_tile<{simd}, smallmind::quant::"
    for symbol, part in {
        f"{tile}Q4_1, false, 32ul, true>": "weights Q4_1",
        f"{tile}Q8_0, true, 32ul, true>": "weights Q8_0, two planes",
        f"smallmind::kernel::coarse_tile<{simd}, smallmind::quant::Q8_0>": "weights Q8_0, coarse",
        f"smallmind::kernel::float_tile<{simd}, smallmind::quant::F16, 8ul, true>": "weights F16",
        f"smallmind::kernel::attend_block<{simd}Bf16, 4ul>": "attention",
        f"smallmind::kernel::quantize_fine<{simd}>": "quantising inputs",
        f"smallmind::kernel::rms_norm<{simd}>": "norms, activations, rope",
        "clear_page_erms": "fresh memory",
        "smallmind::Gang::State::wait_for_generation": "hand-over between threads",
        "smallmind::GenerationTask::publish": "plan, publish, text",
        "_PyEval_EvalFrameDefault": "the system and the rest",
    }.items():
        assert breakdown.part_of(symbol) == part, symbol


def test_shares_leave_out_what_others_took() -> None:
    lines = [
        "7f01 smallmind::kernel::panel_tile<smallmind::simd::Avx2, smallmind::quant::Q4_0>"
    ] * 3
    lines += ["7f02 clear_page_erms"]
    # Of 10 s, another process had 2; of the other 8 the threads ran 4, three quarters in products.
    shares = breakdown.shares(lines, 10.0, 4.0, 2.0)
    assert shares == {
        "weights Q4_0": 37.5,
        "fresh memory": 12.5,
        "idle": 50.0,
        "taken by other processes": 20.0,
    }


def test_a_stripped_module_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"install\.strip=false"):
        breakdown.shares(["7f01 [unknown]"], 1.0, 1.0, 0.0)


def test_receipts_know_compiler_and_model(tmp_path: Path) -> None:
    source, built = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text("int a(void) { return 1; }\n")
    gcc = shutil.which("gcc")
    assert gcc is not None
    subprocess.run([gcc, "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    version = subprocess.run([gcc, "-dumpfullversion"], capture_output=True, text=True, check=True)
    assert machine.compiler(built).endswith(version.stdout.strip())
    assert machine.sha256(source) == hashlib.sha256(source.read_bytes()).hexdigest()
