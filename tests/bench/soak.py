"""Does the process grow from request 500 to 5,000, a fifth of them cancelled?

    python tests/bench/soak.py MODEL.gguf [--requests 5000]
Bound (issue 4): resident memory drifts by less than 2 %; threads and descriptors stay. The cache
has 64 MiB, which some dozens of requests fill: without a limit it grows by design.
"""

from __future__ import annotations

from dataclasses import asdict

import receipt
from soak_load import Soak

import smallmind as sm

FIRST = 500


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--requests", type=int, default=5_000)
    options = parser.parse_args()
    with sm.Engine(options.model, n_threads=options.threads, kv_limit="64MiB") as engine:
        soak = Soak(engine)
        soak.run(options.requests, every=FIRST)
        status = engine.status()
        info = repr(engine)
    first, last = soak.samples[0], soak.samples[-1]
    figures = {
        "engine": info,
        "n_cancelled": soak.n_cancelled,
        "n_evicted_pages": status.n_evicted_pages,
        "samples_in_full": [asdict(sample) for sample in soak.samples],
        "bounds": {},
    }
    drift = last.resident / first.resident - 1
    receipt.bound(figures["bounds"], "drift", drift, at_most=0.02)
    receipt.bound(figures["bounds"], "more_threads", last.n_threads - first.n_threads, at_most=0)
    receipt.bound(
        figures["bounds"], "more_descriptors", last.n_descriptors - first.n_descriptors, at_most=0
    )
    receipt.write(options, "soak", figures)


if __name__ == "__main__":
    main()
