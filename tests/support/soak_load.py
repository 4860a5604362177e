"""Requests without end: does the process grow?

Requests of random lengths from 16 threads, a fifth of them cancelled, chats and forks among them;
the resident memory is read every so many requests, when nothing runs.

    python tests/support/soak_load.py MODEL.gguf KV_LIMIT N_REQUESTS EVERY
prints the samples and the engine's last status as JSON.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from live_threads import n_live_threads
from load import ids_of, resident_bytes, together, wait_until

import smallmind as sm

N_THREADS = 16
CANCELLED = 0.2
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@dataclass
class Sample:
    n_requests: int
    resident: int
    n_threads: int
    n_descriptors: int


@dataclass
class Soak:
    """REQUIRES: an engine with a kv_limit that some dozens of requests fill, since the cache may
    take all that it is given."""

    engine: sm.Engine
    longest_prompt: int = 60
    max_tokens: int = 8
    samples: list[Sample] = field(default_factory=list)
    n_cancelled: int = 0
    _numbers: Any = field(default_factory=itertools.count)
    _lock: Any = field(default_factory=threading.Lock)

    def run(self, n_requests: int, every: int) -> None:
        """n_requests more, with a sample after each `every` of them."""
        done = self.samples[-1].n_requests if self.samples else 0
        for end in range(done + every, done + n_requests + 1, every):
            share = iter(range(every))
            together([lambda share=share: self._work(share) for _ in range(N_THREADS)])
            self._sample(end)

    def _work(self, share: Any) -> None:
        while True:
            with self._lock:
                if next(share, None) is None:
                    return
                number = next(self._numbers)
            self._one(random.Random(f"soak {number}"), number)

    def _one(self, order: random.Random, number: int) -> None:
        ids = ids_of(order.randint(1, self.longest_prompt), number, self.engine.info.n_vocab)
        sampling: dict[str, Any] = {
            "max_tokens": order.randint(1, self.max_tokens), "seed": number, "ignore_eos": True,
        }  # fmt: skip
        if order.random() < CANCELLED:
            self._cancelled(order, ids, sampling)
        elif number % 10 == 1:
            with self.engine.chat_session(chat_template=CHAT_TEMPLATE) as chat:
                chat.send(f"Hello {number}", **sampling)
                chat.send("And?", **sampling)
        elif number % 10 == 2:
            with self.engine.text_session() as session:
                session.generate(ids, **sampling)
                with session.fork() as copy:
                    copy.generate([7], **sampling)
        else:
            for _ in self.engine.stream(ids, logprobs=2, **sampling):
                pass

    def _cancelled(self, order: random.Random, ids: list[int], sampling: dict[str, Any]) -> None:
        with self._lock:
            self.n_cancelled += 1
        token = sm.CancellationToken()
        stream = self.engine.stream(ids, cancel=token, **{**sampling, "max_tokens": 500})
        way = order.randrange(4)
        if way == 0:
            token.cancel()
        elif way == 1:
            time.sleep(order.uniform(0, 0.005))
            stream.cancel()
        else:
            for taken in stream:
                if taken.index == way:
                    break
        stream.close()

    def _sample(self, n_requests: int) -> None:
        wait_until(lambda: self.engine.status().n_running == 0, "all requests have ended")
        gc.collect()
        self.samples.append(
            Sample(
                n_requests,
                resident_bytes(),
                n_live_threads(),
                len(os.listdir("/proc/self/fd")),
            )
        )


def main() -> None:
    model, kv_limit, n_requests, every = sys.argv[1:]
    with sm.Engine(model, n_threads=2, kv_limit=kv_limit) as engine:
        soak = Soak(engine)
        soak.run(int(n_requests), int(every))
        samples = [asdict(sample) for sample in soak.samples]
        seen = {
            "samples": samples, "n_cancelled": soak.n_cancelled, "status": asdict(engine.status()),
        }  # fmt: skip
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
