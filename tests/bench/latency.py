"""Beside a prefill of 6,000 tokens: how soon a short prompt has its first token, and how evenly a
running stream goes on.

    python tests/bench/latency.py MODEL.gguf [--seconds 60]
Bounds (issue 4): time to first token of a 100-token prompt p95 <= 150 ms; gap of a running stream
p99 <= 60 ms. All prompts are different from their first token on.
"""

from __future__ import annotations

import threading
import time

import receipt
from load import ENDLESS, ids_of, percentile, time_to_first_token, wait_until

import smallmind as sm

N_LONG, N_SHORT = 6_000, 100


class Beside:
    """A long prompt after the other, and a stream whose reader notes the time of each token."""

    def __init__(self, engine: sm.Engine) -> None:
        self._engine = engine
        self._n_vocab = engine.info.n_vocab
        self._token = sm.CancellationToken()
        self._prefilling = threading.Event()
        self.gaps: list[float] = []
        self.prefills: list[float] = []
        self._threads = [
            threading.Thread(target=self._prefill), threading.Thread(target=self._read)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()
        self._prefilling.wait()

    def _prefill(self) -> None:
        while not self._token.cancelled:
            ids = ids_of(N_LONG, f"long {len(self.prefills)}", self._n_vocab)
            self._prefilling.set()
            start = time.perf_counter()
            result = self._engine.generate(ids, cancel=self._token, max_tokens=1, temperature=0)
            if result.finish_reason != "cancelled":
                self.prefills.append(time.perf_counter() - start)

    def _read(self) -> None:
        turn = 0
        while not self._token.cancelled:
            ids = ids_of(20, f"stream {turn}", self._n_vocab)
            turn += 1
            last = 0.0
            for token in self._engine.stream(
                ids, cancel=self._token, **{**ENDLESS, "max_tokens": 400}
            ):
                now = time.perf_counter()
                if token.index > 0:
                    self.gaps.append(now - last)
                last = now

    def stop(self) -> None:
        self._token.cancel()
        for thread in self._threads:
            thread.join()


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between short prompts")
    options = parser.parse_args()
    times: list[float] = []
    with sm.Engine(options.model, n_threads=options.threads) as engine:
        n_vocab = engine.info.n_vocab
        engine.generate(ids_of(N_SHORT, "warm", n_vocab), max_tokens=8)
        beside = Beside(engine)
        wait_until(lambda: len(beside.gaps) > 20, "the stream runs beside the prefill")
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            ids = ids_of(N_SHORT, f"short {len(times)}", n_vocab)
            times.append(time_to_first_token(engine, ids))
            time.sleep(options.every)
        beside.stop()
        info = repr(engine)
    figures = {
        "engine": info,
        "n_long": N_LONG,
        "n_short": N_SHORT,
        "first_token": receipt.summary(times, "s"),
        "gap": receipt.summary(beside.gaps, "s"),
        "bounds": {},
    }
    if beside.prefills:
        figures["prefill_of_6000"] = receipt.summary(beside.prefills, "s")
    receipt.bound(figures["bounds"], "first_token_p95_s", percentile(times, 95), at_most=0.150)
    receipt.bound(figures["bounds"], "gap_p99_s", percentile(beside.gaps, 99), at_most=0.060)
    receipt.write(options, "latency", figures)


if __name__ == "__main__":
    main()
