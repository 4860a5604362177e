"""generate_many: a batch from one thread, each result as if its prompt were alone (A-07, B16)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_idle

import smallmind as sm

PROMPTS: list[Any] = ["The sea", "Once upon a time", [504, 3044, 282], "2 + 2 =", "The sea"]


def test_results_come_in_order_and_equal_each_alone(engine: sm.Engine) -> None:
    # A14
    alone = [engine.generate(p, max_tokens=12, temperature=0) for p in PROMPTS]
    batch = engine.generate_many(PROMPTS, max_tokens=12, temperature=0)
    assert [r.token_ids for r in batch] == [r.token_ids for r in alone]
    assert [r.text for r in batch] == [r.text for r in alone]
    assert [r.usage.prompt_tokens for r in batch] == [r.usage.prompt_tokens for r in alone]
    assert len({r.session_id for r in batch}) == len(PROMPTS)
    assert_idle(engine)


def test_many_more_prompts_than_run_side_by_side(engine: sm.Engine) -> None:
    n_sessions = engine.status().n_sessions
    prompts = [[1_000 + i] for i in range(600)]
    results = engine.generate_many(prompts, max_tokens=1, logit_bias={7: 1e4})
    assert [r.token_ids for r in results] == [[7]] * 600
    assert engine.generate_many([]) == []
    assert engine.generate_many(iter(["a", "b"]), max_tokens=1)[1].finish_reason == "length"
    assert engine.status().n_sessions == n_sessions


def test_a_seed_gives_each_prompt_its_own(engine: sm.Engine) -> None:
    # A17
    params = sm.SamplingParams(temperature=1.0, max_tokens=8, seed=2**64 - 1)
    batch = engine.generate_many(["The sea"] * 4, params=params)
    assert [r.seed for r in batch] == [2**64 - 1, 0, 1, 2]
    assert len({tuple(r.token_ids) for r in batch}) > 1
    for result in batch:
        again = engine.generate("The sea", params=params, seed=result.seed)
        assert again.token_ids == result.token_ids
    drawn = engine.generate_many(["The sea"] * 4, max_tokens=1)
    assert len({r.seed for r in drawn}) == 4


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ("", sm.InvalidArgumentError, "is empty"),
        ([], sm.InvalidArgumentError, "is empty"),
        ([1, 49_152], sm.InvalidArgumentError, "49152"),
        ([1, -1], sm.InvalidArgumentError, "-1"),
        ("a\ud800", sm.InvalidArgumentError, "surrogate"),
        ([5] * 8_192, sm.ContextLengthError, "8192"),
        (5, TypeError, "int"),
        (b"bytes", TypeError, "bytes"),
        (None, TypeError, "NoneType"),
        ([1.5], TypeError, "float"),
        ([True], TypeError, "bool"),
    ],
)
def test_a_bad_prompt_is_named_before_anything_starts(
    engine: sm.Engine, bad: Any, error: type[Exception], words: str
) -> None:
    #
    before = engine.status()
    with pytest.raises(error, match=r"prompts\[2\]") as caught:
        engine.generate_many(["a", "b", bad, "c"])
    assert words in str(caught.value)
    after = engine.status()
    assert (after.n_steps, after.n_sessions) == (before.n_steps, before.n_sessions)


def test_what_is_no_list_of_prompts_is_refused(engine: sm.Engine) -> None:
    for bad in ("text", b"text", 3, None):
        with pytest.raises(TypeError, match="prompts"):
            engine.generate_many(bad)  # type: ignore[arg-type]
    with pytest.raises(sm.InvalidArgumentError, match="temperature"):
        engine.generate_many(["a"], temperature=-1)
    with pytest.raises(sm.InvalidArgumentError, match="timeout"):
        engine.generate_many(["a"], timeout=0)
    with pytest.raises(TypeError, match="timeout"):
        engine.generate_many(["a"], timeout="1")  # type: ignore[arg-type]


def test_a_small_queue_makes_the_batch_wait_and_not_fail(smollm2: Path) -> None:
    with sm.Engine(smollm2, n_threads=2, max_queue_depth=1) as small:
        results = small.generate_many([[1_000 + i] for i in range(200)], max_tokens=2)
        assert all(r.usage.completion_tokens >= 1 for r in results)


def test_one_cancel_ends_all(engine: sm.Engine) -> None:
    # A29, B18
    token = sm.CancellationToken()
    threading.Timer(0.3, token.cancel).start()
    start = time.monotonic()
    results = engine.generate_many(
        ["The sea"] * 300, max_tokens=4_000, ignore_eos=True, cancel=token
    )
    assert time.monotonic() - start < 5
    assert {r.finish_reason for r in results} == {"cancelled"}
    assert len(results) == 300
    with pytest.raises(sm.CancelledError, match=results[0].session_id):
        results[0].check()
    assert_idle(engine)


def test_one_timeout_is_for_all(engine: sm.Engine) -> None:
    # A28, B19, B26
    start = time.monotonic()
    results = engine.generate_many(["The sea"] * 20, max_tokens=4_000, ignore_eos=True, timeout=0.3)
    assert 0.3 <= time.monotonic() - start < 2
    assert {r.finish_reason for r in results} == {"timeout"}
    assert_idle(engine)


def test_progress_counts_prompts_and_may_stop_the_batch(engine: sm.Engine) -> None:
    # P-07
    n_sessions = engine.status().n_sessions
    calls: list[tuple[str, int, int]] = []
    engine.generate_many(
        [[1_000 + i] for i in range(100)],
        max_tokens=2,
        progress=lambda *call: calls.append(call),
    )
    assert calls[-1] == ("generate", 100, 100)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)

    class Stop(BaseException):
        pass

    def refuse(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        engine.generate_many(["a"] * 30, max_tokens=4_000, ignore_eos=True, progress=refuse)
    assert engine.status().n_sessions == n_sessions
    assert_idle(engine)


def test_closing_the_engine_ends_the_batch(smollm2: Path) -> None:
    # A38
    with sm.Engine(smollm2, n_threads=2) as other:
        closer = threading.Timer(0.3, other.close)
        closer.start()
        with pytest.raises(sm.EngineClosedError, match=r"prompts\[\d+\]"):
            other.generate_many(["a"] * 20, max_tokens=4_000, ignore_eos=True)
        closer.join()


def test_ctrl_c_ends_all_and_leaves_the_engine_usable(smollm2: Path) -> None:
    # P-01
    script = (
        "import sys, time, smallmind as sm\n"
        "e = sm.Engine(sys.argv[1], n_threads=2)\n"
        "try:\n"
        "    e.generate_many(['a'] * 40, max_tokens=4000, ignore_eos=True,\n"
        "                    progress=lambda *call: print(flush=True))\n"
        "except KeyboardInterrupt:\n"
        "    print(time.monotonic(), e.status().n_sessions, flush=True)\n"
        "print(e.generate('a', max_tokens=2, ignore_eos=True).finish_reason)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(smollm2)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.3)
    sent = time.monotonic()
    os.kill(child.pid, signal.SIGINT)
    lines = child.communicate(timeout=60)[0].split()
    assert float(lines[0]) - sent < 0.5  # 0.1 on a quiet machine
    assert lines[1:] == ["0", "length"]
    assert child.returncode == 0
