"""How much memory a model takes: one copy of the weights, whatever runs (A7)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
                  "kv": engine.info.kv_bytes_per_token, "read_only": read_only}))
"""


def test_one_copy_of_the_weights_and_a_bounded_rest(smollm2: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(smollm2)], capture_output=True, text=True, check=True
    )
    seen = json.loads(run.stdout)
    assert seen["tokens"] >= 512
    budget = smollm2.stat().st_size + seen["tokens"] * seen["kv"]
    assert seen["one"] <= budget + 32 * MIB
    # Eight more sessions add their own KV (at most two pages of 32 tokens each), not weights.
    assert seen["nine"] <= seen["one"] + 8 * 64 * seen["kv"] + 8 * MIB
    # The packed weights lie in private pages that nothing can write any more.
    assert seen["read_only"] >= seen["weights"]
