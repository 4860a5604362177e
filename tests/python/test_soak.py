"""A short soak, and what sessions cost: memory, threads and descriptors stay, creation is quick.

Hazard L-16, A37, A39, A40. `tests/bench/soak.py` and `tests/bench/sessions.py` are the long runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from creation import creation_times
from load import percentile
from mix_runs import tiny_model
from soak_load import CANCELLED, Soak

import smallmind as sm


def test_a_thousand_requests_leave_the_process_as_it_was(tmp_path: Path) -> None:
    # L-16
    model = tiny_model(tmp_path, "llama")
    with sm.Engine(model, n_threads=2, kv_limit="2MiB") as engine:
        soak = Soak(engine)
        soak.run(1_000, every=200)
        status = engine.status()
        assert (status.n_sessions, status.n_running, status.n_queued) == (0, 0, 0)
        assert status.n_kv_pages == 0 and status.n_evicted_pages > 0
    first, last = soak.samples[0], soak.samples[-1]
    assert last.n_requests == 1_000 and soak.n_cancelled > 1_000 * CANCELLED * 0.7
    assert last.resident <= 1.02 * first.resident, soak.samples
    assert (last.n_threads, last.n_descriptors) == (first.n_threads, first.n_descriptors)


@pytest.mark.parametrize(("kind", "bound_s"), [("text", 100e-6), ("chat", 300e-6)])
def test_a_session_is_made_in_microseconds_beside_a_thousand(
    engine: sm.Engine, kind: str, bound_s: float
) -> None:
    # A40. The median has the bound's room; p99 is measured where nothing else runs.
    times = creation_times(engine, kind, n_live=1_000, n_made=500)
    assert percentile(times, 50) <= bound_s
    assert percentile(times, 90) <= 4 * bound_s
