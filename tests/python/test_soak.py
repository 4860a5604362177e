"""A short soak, and what sessions cost: memory, threads and descriptors stay, creation is quick.

Hazard L-16, A37, A39, A40. `tests/bench/soak.py` and `tests/bench/sessions.py` are the long runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from creation import creation_times
from load import percentile
from mix_runs import tiny_model
from soak_load import CANCELLED

import smallmind as sm

SUPPORT = Path(__file__).resolve().parent.parent / "support"


def test_thousands_of_requests_leave_the_process_as_it_was(tmp_path: Path) -> None:
    # L-16. Once warm; in a process of its own, with one arena: malloc's spread over many would hide
    # 2 % of so little. And without Python's own arenas, which come and go a megabyte at a time.
    model = tiny_model(tmp_path, "llama")
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "soak_load.py"), str(model), "2MiB", "3000", "250"],
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONMALLOC": "malloc"},
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    seen = json.loads(done.stdout)
    status, first, last = seen["status"], seen["samples"][3], seen["samples"][-1]
    assert last["n_requests"] == 3_000 and seen["n_cancelled"] > 3_000 * CANCELLED * 0.7
    # What leaks is in every later sample; what is in one of them only was in use for a moment.
    later = min(sample["resident"] for sample in seen["samples"][-4:])
    assert later <= 1.02 * first["resident"], seen["samples"]
    assert last["n_threads"] == first["n_threads"]
    assert last["n_descriptors"] == first["n_descriptors"]
    assert status["n_sessions"] == status["n_running"] == status["n_queued"] == 0
    assert status["n_kv_pages"] == 0 and status["n_evicted_pages"] > 0


@pytest.mark.parametrize(("kind", "bound_s"), [("text", 100e-6), ("chat", 300e-6)])
def test_a_session_is_made_in_microseconds_beside_a_thousand(
    engine: sm.Engine, kind: str, bound_s: float
) -> None:
    # A40. The median has the bound's room; p99 is measured where nothing else runs.
    times = creation_times(engine, kind, n_live=1_000, n_made=500)
    assert percentile(times, 50) <= bound_s
    assert percentile(times, 90) <= 4 * bound_s
