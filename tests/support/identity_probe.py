"""Runs one model in this process and prints what must not depend on how it ran.

    python tests/support/identity_probe.py MODEL.gguf PLAN.json
The plan names ids to score, prompts, the number of tokens, threads, the cache type, and whether the
prompts run at once. The instruction set is the environment's (SMALLMIND_ISA): it is chosen once a
process, which is why this is a program. Output: one JSON object; logits as the sha256 of their
bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

import smallmind as sm


def logits_digest(engine: Any, ids: list[int], slab: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(ids), slab):
        end = min(start + slab, len(ids))
        part = engine.score(ids[:end], positions=list(range(start, end)))
        digest.update(np.ascontiguousarray(part, np.float32).tobytes())
    return digest.hexdigest()


def generate(engine: Any, prompt: str, sampling: dict[str, Any], out: dict[str, Any]) -> None:
    with engine.text_session() as session:
        result = session.generate(prompt, ignore_eos=True, **sampling)
        out[prompt] = [list(result.token_ids), result.text]


def run_prompts(engine: Any, plan: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if plan["at_once"]:
        threads = [
            threading.Thread(target=generate, args=(engine, prompt, sampling, out))
            for prompt in plan["prompts"]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for prompt in plan["prompts"]:
            generate(engine, prompt, sampling, out)
    return {prompt: out.get(prompt) for prompt in plan["prompts"]}


def main() -> None:
    plan = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    cache_type = plan.get("cache_type", "bf16")
    with sm.Engine(sys.argv[1], n_threads=plan["n_threads"], cache_type=cache_type) as engine:
        found: dict[str, Any] = {"engine": repr(engine)}
        if plan["ids"]:
            found["logits"] = logits_digest(engine, plan["ids"], plan.get("slab", 128))
        for name, sampling in plan["sampling"].items():
            found[name] = run_prompts(engine, plan, sampling)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
