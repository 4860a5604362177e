"""How much memory a model takes: one copy of the weights, whatever runs (A7), and what the engine
says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import assert_idle

import smallmind as sm

MIB = 1 << 20

PROGRAM = """
import json, sys, threading
import numpy

def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

before = peak()
import smallmind as sm
engine = sm.Engine(sys.argv[1], n_threads=2)
with engine.text_session() as session:
    session.generate("word " * 500, max_tokens=12, temperature=0, ignore_eos=True)
    tokens = len(session)
    one = peak() - before
    in_use = engine.memory().kv_in_use
    def other():
        with engine.text_session() as extra:
            extra.generate("word " * 20, max_tokens=4, temperature=0, ignore_eos=True)
    threads = [threading.Thread(target=other) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
maps = open("/proc/self/maps").read().splitlines()
weights = engine.info.weight_bytes
read_only = max(
    int(m.split("-")[1].split()[0], 16) - int(m.split("-")[0], 16)
    for m in maps if " r--p 00000000 00:00 0" in m
)
print(json.dumps({"one": one, "nine": peak() - before, "tokens": tokens, "weights": weights,
                  "kv": engine.info.kv_bytes_per_token, "in_use": in_use, "read_only": read_only}))
"""


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_one_copy_of_the_weights_and_a_bounded_rest(
    model: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    seen = json.loads(run.stdout)
    assert seen["tokens"] >= 512
    assert seen["in_use"] <= (seen["tokens"] + 32) * seen["kv"]
    n_file = path.stat().st_size
    assert seen["one"] <= n_file + seen["in_use"] + max(24 * MIB, n_file * 8 // 100)
    # Eight more sessions add their own KV (at most two pages of 32 tokens each), not weights.
    assert seen["nine"] <= seen["one"] + 8 * 64 * seen["kv"] + 8 * MIB
    # The packed weights lie in private pages that nothing can write any more.
    assert seen["read_only"] >= seen["weights"]


def total_of(memory: sm.EngineMemory) -> int:
    parts = (memory.weights, memory.kv, memory.workspace, memory.tokenizer, memory.requests)
    return sum(parts)


def test_memory_is_itemised(smollm2: Path) -> None:
    with sm.Engine(smollm2, n_threads=2, kv_limit="64MiB") as engine:
        empty = engine.memory()
        assert empty.weights == engine.info.weight_bytes
        assert empty.tokenizer == engine.tokenizer.memory_bytes
        assert empty.kv_limit == engine.info.kv_limit == 64 * MIB
        assert empty.workspace > 0
        assert (empty.kv, empty.kv_in_use, empty.kv_cached, empty.requests) == (0, 0, 0, 0)
        assert empty.total == total_of(empty)
        page = 32 * engine.info.kv_bytes_per_token

        session = engine.text_session()
        with session.stream([5] * 100, max_tokens=100, ignore_eos=True) as stream:
            next(stream)
            next(stream)  # so the step before was told of
            running = engine.memory()
            assert running.kv_in_use >= 4 * page
            assert running.kv_in_use + running.kv_cached <= running.kv <= running.kv_limit
            # The prompt, the context with room to grow, and the ring of tokens.
            assert running.requests >= (100 + 200) * 4
        assert_idle(engine)
        kept = engine.memory()
        assert kept.kv_in_use >= 4 * page and kept.kv_cached == 0
        assert 100 * 4 <= kept.requests < running.requests

        session.close()
        del session, stream
        assert_idle(engine, n_kv_pages=0)
        cached = engine.memory()
        assert cached.kv_in_use == cached.requests == 0
        assert 4 * page <= cached.kv_cached <= cached.kv
        assert cached.total == total_of(cached) <= cached.peak
        assert cached.peak >= running.total
    closed = engine.memory()
    assert (closed.kv, closed.workspace, closed.requests) == (0, 0, 0)
    assert closed.peak >= cached.peak


def test_memory_of_two_page_groups_adds_up(gemma3: Path) -> None:
    with sm.Engine(gemma3, n_threads=2) as engine:
        with engine.text_session() as session:
            session.generate([5] * 700, max_tokens=4, ignore_eos=True)
            held = engine.memory()
            # 18 layers see everything, or the last 512 tokens: fewer bytes than all of both.
            assert 0 < held.kv_in_use <= 736 * engine.info.kv_bytes_per_token
            assert held.kv_in_use + held.kv_cached <= held.kv
        assert_idle(engine, n_kv_pages=0)
        left = engine.memory()
        assert left.kv_in_use == 0 < left.kv_cached <= left.kv
