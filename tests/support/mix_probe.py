"""Plays the mixes of a range of seeds in this process and prints what came out.

    python tests/support/mix_probe.py MODEL.gguf PLAN.json
The plan: world (tiny or real), first_seed, n_mixes, n_threads, and tiny_floats: whether the calling
threads flush subnormal numbers to zero. The instruction set is the environment's (SMALLMIND_ISA).
Output: a line of JSON for every answer, then one that counts what happened.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import flush_to_zero
import mixes

import smallmind as sm

# An engine lives for so many mixes: its cache is full of other prompts, and it starts empty again.
MIXES_AN_ENGINE = 25
STUCK_S = 120


class Engines:
    """One engine for each set of options, made anew from time to time."""

    def __init__(self, model: str, world: mixes.World, n_threads: int) -> None:
        self._model = model
        self._world = world
        self._fixed = {"n_threads": n_threads, "context_length": world.context_length}
        self._open: dict[int, tuple[sm.Engine, int]] = {}
        self.counts: Counter[str] = Counter()
        with sm.Engine(model, **self._fixed) as engine:
            self._kv_bytes = engine.info.kv_bytes_per_token
            self.isa = engine.info.isa

    def get(self, seed: int) -> tuple[sm.Engine, str]:
        options = mixes.engine_options(seed, self._world, self._kv_bytes)
        engine, used = self._open.pop(seed % 4, (None, 0))
        if used == MIXES_AN_ENGINE and engine is not None:
            self._retire(engine)
            engine = None
        if engine is None:
            engine, used = sm.Engine(self._model, **self._fixed, **options), 0
        self._open[seed % 4] = (engine, used + 1)
        return engine, options["cache_type"]

    def _retire(self, engine: sm.Engine) -> None:
        latest = time.monotonic() + 2  # the loop sees an end with its next plan
        while engine.status().n_running > 0 and time.monotonic() < latest:
            time.sleep(0.001)
        status = engine.status()
        self.counts["cached"] += status.n_cached_tokens
        self.counts["computed"] += status.n_computed_tokens
        self.counts["evicted"] += status.n_evicted_pages
        self.counts["left running"] += status.n_running + status.n_queued
        self.counts["left open"] += status.n_sessions
        engine.close()

    def close(self) -> None:
        for engine, _ in self._open.values():
            self._retire(engine)


def main() -> None:
    plan: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    world = mixes.TINY if plan["world"] == "tiny" else mixes.REAL
    if plan.get("tiny_floats"):
        flush_to_zero.set_in_this_thread()  # threads that are started later inherit it
    engines = Engines(sys.argv[1], world, plan["n_threads"])
    for seed in range(plan["first_seed"], plan["first_seed"] + plan["n_mixes"]):
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        engine, cache_type = engines.get(seed)
        played = mixes.play(engine, mixes.make_mix(seed, world), cache_type)
        engines.counts["forks"] += played.n_forks
        engines.counts["early"] += sum(c.finish in ("cancelled", "timeout") for c in played.calls)
        engines.counts["calls"] += len(played.calls)
        for call in played.calls:
            print(json.dumps(asdict(call)))
        for error in played.errors:
            print(json.dumps({"error": f"mix {seed}: {error}"}))
    faulthandler.cancel_dump_traceback_later()
    engines.close()
    print(json.dumps({"isa": engines.isa, **engines.counts}))


if __name__ == "__main__":
    main()
