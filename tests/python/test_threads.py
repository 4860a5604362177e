"""One engine, many threads: every session as if it were alone (A1-A20, B76, B84)."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_idle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from live_threads import n_live_threads

import smallmind as sm

PROMPTS = [f"{who} went to the {where} and" for who in ("She", "He", "They", "Nobody") for where in
           ("market", "moon", "sea", "office")]  # fmt: skip


def in_threads(work: Sequence[Callable[[], Any]], stack: int | None = None) -> list[Any]:
    """The results, all threads started before one is waited for; the first error is raised."""
    results: list[Any] = [None] * len(work)
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = work[i]()
        except BaseException as error:
            errors.append(error)

    old = threading.stack_size(stack or 0)
    try:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(old)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def two_turns(engine: sm.Engine, i: int) -> list[int]:
    """A session's whole life: greedy for even numbers, seeded for odd ones."""
    options: dict[str, Any] = {"temperature": 0} if i % 2 == 0 else {"seed": i, "temperature": 1.0}
    with engine.text_session() as session:
        session.generate(PROMPTS[i], max_tokens=10, **options)
        list(session.stream(" Then", max_tokens=6, repeat_penalty=1.1, **options))
        return session.token_ids


def test_sixteen_sessions_on_sixteen_threads_equal_each_alone(engine: sm.Engine) -> None:
    # A14: bit for bit, whatever runs beside.
    alone = [two_turns(engine, i) for i in range(16)]
    together = in_threads([lambda i=i: two_turns(engine, i) for i in range(16)])  # type: ignore[misc]
    assert together == alone
    assert_idle(engine)


def test_the_number_of_threads_changes_nothing(engine: sm.Engine, smollm2: Path) -> None:
    alone = [two_turns(engine, i) for i in range(4)]
    with sm.Engine(smollm2, n_threads=1) as one:
        together = in_threads([lambda i=i: two_turns(one, i) for i in range(4)])  # type: ignore[misc]
    assert together == alone


def test_everything_at_once(engine: sm.Engine) -> None:
    # A1, A2, A3, A6: sessions, chats, scores, tokenising and cancels in random order.
    expected_text = engine.generate(PROMPTS[0], temperature=0, max_tokens=5).text
    expected_score = engine.score([5, 6, 7]).tobytes()
    expected_chat = engine.chat([{"role": "user", "content": "Hi"}], temperature=0, max_tokens=5)
    ids = engine.tokenizer.encode("Some text, for all threads. 🙂" * 20)

    def cancelled() -> None:
        stream = engine.stream(PROMPTS[1], max_tokens=200, ignore_eos=True)
        next(stream)
        stream.cancel()
        assert stream.result().finish_reason == "cancelled"

    def generated() -> None:
        text = engine.generate(PROMPTS[0], temperature=0, max_tokens=5).text
        assert text == expected_text

    def scored() -> None:
        assert engine.score([5, 6, 7]).tobytes() == expected_score

    def chatted() -> None:
        chat = engine.chat_session()
        assert chat.send("Hi", temperature=0, max_tokens=5).text == expected_chat.text

    def tokenised() -> None:
        text = engine.tokenizer.decode(ids)
        assert engine.tokenizer.encode(text) == ids

    kinds = [cancelled, generated, scored, chatted, tokenised]

    def work(seed: int) -> None:
        order = random.Random(seed)
        for _ in range(8):
            order.choice(kinds)()

    in_threads([lambda i=i: work(i) for i in range(16)])  # type: ignore[misc]
    assert_idle(engine)


def test_two_calls_on_one_session_one_wins(engine: sm.Engine) -> None:
    # A11, A12, B75: never corrupted, whoever comes second is told.
    session = engine.text_session()
    outcomes: list[str] = []

    def call() -> None:
        for _ in range(10):
            try:
                session.generate(" x", max_tokens=2, temperature=0)
                outcomes.append("ok")
            except sm.SessionBusyError:
                outcomes.append("busy")

    in_threads([call] * 8)
    won = outcomes.count("ok")
    assert won >= 1 and len(outcomes) == 80
    prompt = len(engine.tokenizer.encode(" x"))
    assert won * prompt < len(session) <= won * (prompt + 2)
    replay = engine.text_session()
    for _ in range(won):
        replay.generate(" x", max_tokens=2, temperature=0)
    assert replay.token_ids == session.token_ids


def test_a_stream_may_be_read_from_threads_in_turn(engine: sm.Engine) -> None:
    # A web framework does: ownership is by use.
    expected = list(engine.stream(PROMPTS[2], max_tokens=8, temperature=0, ignore_eos=True))
    stream = engine.stream(PROMPTS[2], max_tokens=8, temperature=0, ignore_eos=True)
    tokens = [in_threads([lambda: next(stream)])[0] for _ in range(8)]
    assert tokens == expected


def test_a_waiting_thread_holds_up_no_other(engine: sm.Engine) -> None:
    # P-02: a heartbeat beside prefill, decode, score and load.
    def longest_gap(work: Callable[[], Any]) -> float:
        gaps: list[float] = []
        stop = threading.Event()

        def beat() -> None:
            last = time.monotonic()
            while not stop.is_set():
                time.sleep(0.001)
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        thread = threading.Thread(target=beat)
        thread.start()
        work()
        stop.set()
        thread.join()
        gaps.sort()
        return gaps[int(len(gaps) * 0.95)]

    ids = list(range(5, 305))
    assert longest_gap(lambda: engine.generate(ids, max_tokens=20)) < 0.05
    assert longest_gap(lambda: list(engine.stream(PROMPTS[0], max_tokens=30))) < 0.05
    assert longest_gap(lambda: engine.score(ids, positions=[299])) < 0.05


def test_all_of_it_in_threads_of_256_kib(smollm2: Path) -> None:
    # P-14
    def life() -> list[int]:
        with (
            sm.Engine(smollm2, n_threads=2) as small,
            small.chat_session(system="Be kind.") as chat,
        ):
            chat.send("Hello there", temperature=0, max_tokens=4)
            small.score([1, 2, 3])
            "".join(map(str, small.stream("a b c", max_tokens=3)))
            small.tokenizer.encode("x" * 100_000)
            with pytest.raises(sm.InvalidArgumentError):
                small.generate("x", temperature=-1)
            return chat.token_ids

    first, second = in_threads([life, life], stack=256 << 10)
    assert first == second == life()


def test_sessions_cost_no_second_copy_of_the_weights(engine: sm.Engine) -> None:
    # A7, A40, A42
    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    in_threads([lambda: engine.generate("warm", max_tokens=2)] * 4)
    before = resident_kib()
    start = time.perf_counter()
    sessions = [engine.text_session() for _ in range(100)]
    assert (time.perf_counter() - start) / 100 < 0.005
    assert resident_kib() - before < 4_096
    for session in sessions:
        session.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "", "TMPDIR": "/nonexistent"},
        {"HOME": None, "PATH": ""},
    ],
    ids=["german", "c", "no-home", "bare"],
)
def test_surroundings_do_not_matter(
    engine: sm.Engine, smollm2: Path, tmp_path: Path, settings: dict[str, str | None]
) -> None:
    # P-15: decimal commas, no home, no PATH, a folder that cannot be written.
    script = (
        "import locale, sys, smallmind as sm\n"
        "try: locale.setlocale(locale.LC_ALL, '')\n"
        "except locale.Error: pass\n"
        f"e = sm.Engine({str(smollm2)!r})\n"
        "r = e.generate('The capital of France is', temperature=0.5, top_p=0.9, seed=1,\n"
        "               max_tokens=6)\n"
        "print(r.token_ids)\n"
        "try: e.generate('x', temperature=-0.5)\n"
        "except sm.InvalidArgumentError as error: assert '-0.5' in str(error), error\n"
        "messages = [{'role': 'user', 'content': 'Hi'}]\n"
        "print(e.chat(messages, temperature=0, max_tokens=2).token_ids)\n"
    )
    environment = {**os.environ, **settings}
    environment = {name: value for name, value in environment.items() if value is not None}
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        env=environment,
        cwd=locked,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    expected = engine.generate(
        "The capital of France is", temperature=0.5, top_p=0.9, seed=1, max_tokens=6
    )
    chat = engine.chat([{"role": "user", "content": "Hi"}], temperature=0, max_tokens=2)
    assert done.stdout.splitlines() == [str(expected.token_ids), str(chat.token_ids)]
    assert done.stderr == ""


def test_no_descriptor_is_left_open(smollm2: Path) -> None:
    # A37, A38
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    sm.Engine(smollm2, n_threads=1).close()  # the runtime's thread comes with the first load
    before = len(os.listdir("/proc/self/fd"))
    threads_before = n_live_threads()
    for _ in range(3):
        with sm.Engine(smollm2, n_threads=2) as other:
            list(other.stream("a", max_tokens=2))
    assert len(os.listdir("/proc/self/fd")) == before < limit
    assert n_live_threads() == threads_before
