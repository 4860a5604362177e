"""Cancel and Ctrl-C beside fifteen running sessions: how soon the caller is back.

    python tests/bench/control.py MODEL.gguf [--each 40]
In a prefill of 6,000 tokens, in decode and in the queue, by every way that there is. Bounds
(issue 4): p99 <= 50 ms, pages back within one step (a second may have been planned with it);
Ctrl-C <= 100 ms.
"""

from __future__ import annotations

import receipt
from cancelling import (
    N_OTHER_TOKENS,
    N_OTHERS,
    PLACES,
    WAYS,
    cancel_one,
    ctrl_c,
    limits,
    steps_until_pages_are_back,
)
from load import busy, percentile

import smallmind as sm


def main() -> None:
    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--each", type=int, default=40, help="cancels a place and way")
    parser.add_argument("--ctrl-c", type=int, default=10, help="Ctrl-C a place")
    options = parser.parse_args()
    with sm.Engine(options.model) as engine:
        room = limits(engine.info.kv_bytes_per_token)
    times: dict[str, list[float]] = {}
    with sm.Engine(options.model, n_threads=options.threads, **room) as engine:
        with busy(engine, N_OTHERS, max_tokens=N_OTHER_TOKENS):
            for _ in range(options.each):
                for place in PLACES:
                    for way in WAYS:
                        seen = cancel_one(engine, place, way)
                        times.setdefault(place, []).append(seen.back_s)
            steps = [steps_until_pages_are_back(engine) for _ in range(options.each)]
        info = repr(engine)
    figures = {
        "engine": info,
        "back": {place: receipt.summary(values, "s") for place, values in times.items()},
        "steps_until_pages_are_back": receipt.summary(steps, "steps"),
        "ctrl_c": {},
        "bounds": {},
    }
    for place, values in times.items():
        receipt.bound(figures["bounds"], f"{place}_p99_s", percentile(values, 99), at_most=0.050)
    receipt.bound(figures["bounds"], "steps_max", max(steps), at_most=2)
    for place in PLACES:
        late = [ctrl_c(options.model, place) for _ in range(options.ctrl_c)]
        figures["ctrl_c"][place] = receipt.summary(late, "s")
        receipt.bound(figures["bounds"], f"ctrl_c_{place}_max_s", max(late), at_most=0.100)
    receipt.write(options, "control", figures)


if __name__ == "__main__":
    main()
