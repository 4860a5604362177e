"""Nine quiet callers, each with a key of its own, beside one that floods the engine with requests
under one key (hazard L-05)."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from load import ENDLESS, ids_of, together, wait_until

import smallmind as sm

N_QUIET = 9
_salts = itertools.count()


def quiet_latencies(
    engine: sm.Engine, *, n_noisy: int, n_each: int, n_prompt: int = 40, n_tokens: int = 8
) -> list[float]:
    """Seconds of each request of the quiet callers, who ask one after the other, n_each times,
    while the noisy one has n_noisy requests in flight."""
    token = sm.CancellationToken()
    sampling: dict[str, Any] = {**ENDLESS, "max_tokens": n_tokens}
    n_vocab = engine.info.n_vocab

    def flood() -> None:
        # A batch is one thread and one wait: the noisy one takes steps, and no Python.
        while not token.cancelled:
            prompts = [
                ids_of(4 * n_prompt, f"noisy {next(_salts)}", n_vocab) for _ in range(n_noisy // 2)
            ]
            noise = {**sampling, "max_tokens": 4 * n_tokens}
            engine.generate_many(prompts, cancel=token, fairness_key="noisy", **noise)

    def ask(key: str) -> list[float]:
        seen = []
        for _ in range(n_each):
            ids = ids_of(n_prompt, f"quiet {next(_salts)}", n_vocab)
            start = time.perf_counter()
            engine.generate(ids, fairness_key=key, **sampling)
            seen.append(time.perf_counter() - start)
        return seen

    noisy = [threading.Thread(target=flood) for _ in range(2 if n_noisy else 0)]
    for thread in noisy:
        thread.start()
    if noisy:
        wait_until(lambda: engine.status().n_running > 0, "the noisy one runs")
        time.sleep(0.05)
    try:
        lists = together([lambda k=f"quiet {i}": ask(k) for i in range(N_QUIET)])
    finally:
        token.cancel()
        for thread in noisy:
            thread.join()
    return [seconds for each in lists for seconds in each]
