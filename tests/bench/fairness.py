"""Nine quiet callers, alone and beside one that floods the engine under a key of its own.

    python tests/bench/fairness.py MODEL.gguf [--rounds 5]
Bound (L-05): the quiet ones' p99 is at most twice what it is without the noisy one.
"""

from __future__ import annotations

import receipt
from fairness_load import quiet_latencies
from load import percentile

import smallmind as sm

N_NOISY = 40


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=12, help="requests of a quiet caller a round")
    options = parser.parse_args()
    solo: list[float] = []
    noisy: list[float] = []
    with sm.Engine(options.model, n_threads=options.threads) as engine:
        quiet_latencies(engine, n_noisy=0, n_each=2)
        for _ in range(options.rounds):
            solo += quiet_latencies(engine, n_noisy=0, n_each=options.each)
            noisy += quiet_latencies(engine, n_noisy=N_NOISY, n_each=options.each)
        info = repr(engine)
    figures = {
        "engine": info,
        "n_noisy": N_NOISY,
        "quiet_alone": receipt.summary(solo, "s"),
        "quiet_beside_the_noisy": receipt.summary(noisy, "s"),
        "bounds": {},
    }
    times = percentile(noisy, 99) / percentile(solo, 99)
    receipt.bound(figures["bounds"], "p99_ratio", times, at_most=2.0)
    receipt.write(options, "fairness", figures)


if __name__ == "__main__":
    main()
