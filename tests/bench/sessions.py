"""What it costs to make a session while a thousand live.

    python tests/bench/sessions.py MODEL.gguf
Bounds (issue 4, A40): p99 <= 100 us for a text session, <= 300 us for a chat.
"""

from __future__ import annotations

import receipt
from creation import creation_times
from load import percentile

import smallmind as sm

BOUNDS = {"text": 100e-6, "chat": 300e-6}


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--live", type=int, default=1_000)
    parser.add_argument("--made", type=int, default=5_000)
    options = parser.parse_args()
    figures: dict[str, object] = {"bounds": {}}
    with sm.Engine(options.model, n_threads=options.threads) as engine:
        figures["engine"] = repr(engine)
        for kind, at_most in BOUNDS.items():
            times = creation_times(engine, kind, options.live, options.made)
            figures[kind] = receipt.summary(times, "s")
            receipt.bound(
                figures["bounds"], f"{kind}_p99_s", percentile(times, 99), at_most=at_most
            )
    receipt.write(options, "sessions", figures)


if __name__ == "__main__":
    main()
