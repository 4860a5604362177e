"""Shared prefixes: what two requests have in common is computed once, whoever asks.

Issue 4: shared system prompts, chats, forks, salts, eviction. Pages have 32 tokens. Hazards A-30,
A-33, A-34, L-03. What is expected of the tokens is what an engine without a cache gives.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from load import ENDLESS, ids_of, together, wait_until
from mix_runs import tiny_model

import smallmind as sm

PAGE = 32
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 6}


def whole_pages(n_tokens: int) -> int:
    """What of a prompt another must find: its whole pages, but never its last token."""
    return (n_tokens - 1) // PAGE * PAGE


def is_found(n_cached: int, n_tokens: int) -> bool:
    """All whole pages; of a page in part, as much as there is."""
    return whole_pages(n_tokens) <= n_cached < n_tokens


@dataclass
class Counted:
    """Prompt tokens since it was made."""

    engine: sm.Engine

    def __post_init__(self) -> None:
        self._start = self.engine.status()

    @property
    def computed(self) -> int:
        return self.engine.status().n_computed_tokens - self._start.n_computed_tokens

    @property
    def cached(self) -> int:
        return self.engine.status().n_cached_tokens - self._start.n_cached_tokens


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny; the windowed layers of gemma3 see 48 tokens."""
    return tiny_model(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture
def tiny(model: Path) -> Iterator[sm.Engine]:
    with sm.Engine(model, n_threads=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(model: Path) -> Iterator[sm.Engine]:
    """What every answer is compared with: one thread, and nothing kept."""
    with sm.Engine(model, n_threads=1, enable_kv_cache=False) as engine:
        yield engine


# The same prompt at the same instant --------------------------------------------------------------


def share_a_system_prompt(path: Path, n_shared: int, n_own: int) -> None:
    with sm.Engine(path, n_threads=2) as engine, sm.Engine(path, enable_kv_cache=False) as plain:
        n_vocab = engine.info.n_vocab
        system = ids_of(n_shared, "system", n_vocab)
        prompts = [system + ids_of(n_own, i, n_vocab) for i in range(16)]
        sessions = [engine.text_session() for _ in prompts]
        counted = Counted(engine)
        results = together(
            [
                lambda s=s, p=p: s.generate(p, **GREEDY)  # type: ignore[misc]
                for s, p in zip(sessions, prompts, strict=True)
            ]
        )
        assert counted.computed <= n_shared + 16 * (n_own + PAGE)
        assert counted.computed + counted.cached == sum(map(len, prompts))
        assert counted.cached == sum(result.usage.cached_tokens for result in results)
        assert results[15].token_ids == plain.generate(prompts[15], **GREEDY).token_ids


def test_sixteen_sessions_compute_a_shared_prompt_once(smollm2: Path) -> None:
    share_a_system_prompt(smollm2, 1_000, 10)


def test_sixteen_sessions_of_gemma_compute_a_shared_prompt_once(gemma3: Path) -> None:
    share_a_system_prompt(gemma3, 1_000, 10)  # the window is 512


def test_a_shared_prompt_is_computed_once_on_tiny_models(model: Path) -> None:
    share_a_system_prompt(model, 500, 7)


def test_a_batch_computes_its_shared_prompt_once(tiny: sm.Engine, alone: sm.Engine) -> None:
    system = ids_of(200, "batch")
    prompts = [system + ids_of(9, i) for i in range(24)]
    counted = Counted(tiny)
    results = tiny.generate_many(prompts, **GREEDY)
    assert counted.computed <= 200 + 24 * (9 + PAGE)
    expected = [alone.generate(prompt, **GREEDY).token_ids for prompt in prompts]
    assert [result.token_ids for result in results] == expected


def test_who_waits_for_a_prefix_takes_over_when_its_owner_ends(smollm2: Path) -> None:
    with sm.Engine(smollm2, n_threads=2) as engine:
        ids = ids_of(900, "given up", engine.info.n_vocab)
        expected = engine.generate(ids, cache_salt="another", **GREEDY).token_ids
        counted = Counted(engine)
        owner = engine.stream(ids, **GREEDY)
        wait_until(lambda: engine.status().n_running == 1, "the owner runs")
        waiting = [engine.stream([*ids, 11, i], **GREEDY) for i in range(10, 13)]
        same = engine.stream(ids, **GREEDY)
        owner.cancel()
        assert same.result().token_ids == expected
        assert [len(stream.result().token_ids) for stream in waiting] == [6] * 3
        # A second start of what the owner had not finished, no third.
        assert counted.computed < 2 * 900 + 4 * (2 + PAGE)


# What a later request finds -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 200])
def test_a_second_request_finds_the_whole_pages(tiny: sm.Engine, alone: sm.Engine, n: int) -> None:
    ids = ids_of(n, "twice")
    first = tiny.generate(ids, **GREEDY)
    second = tiny.generate(ids, **GREEDY)
    assert first.usage.cached_tokens == 0
    assert is_found(second.usage.cached_tokens, n)
    assert second.usage.prompt_tokens == n
    assert first.token_ids == second.token_ids == alone.generate(ids, **GREEDY).token_ids


def test_a_prefix_counts_up_to_the_first_different_token(tiny: sm.Engine, alone: sm.Engine) -> None:
    # tokens are compared, each of them.
    ids = ids_of(130, "donor")
    tiny.generate(ids, **GREEDY)
    for position in (0, 1, 31, 32, 63, 64, 95, 96, 127, 128):
        other = list(ids)
        other[position] += 1
        result = tiny.generate(other, **GREEDY)
        assert position // PAGE * PAGE <= result.usage.cached_tokens <= position
        assert result.token_ids == alone.generate(other, **GREEDY).token_ids


def test_a_prefix_is_usable_while_its_donor_still_generates(
    tiny: sm.Engine, alone: sm.Engine
) -> None:
    ids = ids_of(300, "alive")
    with tiny.stream(ids, max_tokens=600, ignore_eos=True, temperature=0) as donor:
        tokens = [next(donor).id for _ in range(80)]
        second = tiny.generate(ids, **GREEDY)
        assert donor.finish_reason is None
        assert is_found(second.usage.cached_tokens, 300)
        assert second.token_ids == tokens[:6]
        # And the donor's answer is a prefix, too.
        third = tiny.generate(ids + tokens[:70], **GREEDY)
        assert third.usage.cached_tokens >= whole_pages(360)
        assert third.token_ids == tokens[70:76]
        tokens += [token.id for token in donor]
    result = alone.generate(ids, max_tokens=600, ignore_eos=True, temperature=0)
    assert tokens == result.token_ids


def chat_computes_only_what_is_new(engine: sm.Engine) -> None:
    system = "You are brief and kind. " * 8
    with engine.chat_session(system, cache_salt="nobody else") as chat:
        chat.send("Tell me of the sea.", max_tokens=20, ignore_eos=True, temperature=0)
        for _ in range(2):
            held = len(chat)
            counted = Counted(engine)
            answer = chat.send("And of the moon?", max_tokens=9, temperature=0)
            new = answer.usage.prompt_tokens - held
            # The last token of an answer was chosen, not computed.
            assert new <= counted.computed <= new + 1
            assert answer.usage.cached_tokens >= held - 1
            assert not answer.usage.retokenized


def test_a_later_turn_of_a_chat_computes_only_what_is_new(tiny: sm.Engine) -> None:
    chat_computes_only_what_is_new(tiny)


def test_a_later_turn_of_the_default_models_chat_computes_only_what_is_new(
    engine: sm.Engine,
) -> None:
    chat_computes_only_what_is_new(engine)


def test_a_later_turn_of_a_session_computes_only_what_is_new(
    tiny: sm.Engine, alone: sm.Engine
) -> None:
    with tiny.text_session() as session:
        for n in (50, 1, 33, 7):
            ids, held = ids_of(n, f"turn {n}"), session.token_ids
            counted = Counted(tiny)
            result = session.generate(ids, **GREEDY)
            assert counted.computed <= n + 1
            assert result.token_ids == alone.generate(held + ids, **GREEDY).token_ids


def test_after_an_early_end_the_turn_goes_on_from_what_was_read(
    tiny: sm.Engine, alone: sm.Engine
) -> None:
    session = tiny.text_session()
    ids = ids_of(70, "early")
    for token in session.stream(ids, max_tokens=400, ignore_eos=True, temperature=0):
        if token.index == 40:
            break
    held = session.token_ids
    assert len(held) == 70 + 41
    result = session.generate([12, 13], **GREEDY)
    assert result.usage.cached_tokens >= whole_pages(len(held))
    assert result.token_ids == alone.generate([*held, 12, 13], **GREEDY).token_ids


def test_a_closed_session_leaves_its_prefix(tiny: sm.Engine) -> None:
    ids = ids_of(100, "left")
    with tiny.text_session() as session:
        session.generate(ids, **GREEDY)
        wait_until(lambda: tiny.status().n_running == 0, "idle")
        assert tiny.status().n_kv_pages > 0
    wait_until(lambda: tiny.status().n_kv_pages == 0, "no session holds pages")
    assert tiny.status().n_cached_pages > 0
    assert is_found(tiny.generate(ids, **GREEDY).usage.cached_tokens, 100)


def test_without_a_cache_nothing_is_shared(model: Path) -> None:
    # B79: the option changes what happens.
    with sm.Engine(model, n_threads=2, enable_kv_cache=False) as engine:
        ids = ids_of(100, "plain")
        first = engine.generate(ids, **GREEDY)
        second = engine.generate(ids, **GREEDY)
        with engine.text_session() as session:
            session.generate(ids, **GREEDY)
            third = session.generate([5], **GREEDY)
            copy = session.fork()
            fourth = copy.generate([5], **GREEDY)
        assert [r.usage.cached_tokens for r in (first, second, third, fourth)] == [0] * 4
        assert first.token_ids == second.token_ids
        assert engine.status().n_cached_tokens == 0
        wait_until(lambda: engine.status().n_running == 0, "idle")
        status = engine.status()
        assert (status.n_kv_pages, status.n_cached_pages) == (0, 0)


# Forks --------------------------------------------------------------------------------------------


def test_a_fork_goes_on_from_the_same_context_without_computing_it(
    tiny: sm.Engine, alone: sm.Engine
) -> None:
    session = tiny.text_session(session_id="trunk")
    session.generate(ids_of(150, "trunk"), **GREEDY)
    held = session.token_ids
    copies = [session.fork(), session.fork(session_id="branch")]
    assert [copy.token_ids for copy in copies] == [held, held]
    assert copies[1].id == "branch"
    assert len({session.id, *(copy.id for copy in copies)}) == 3
    turns = [ids_of(5, i) for i in range(3)]
    counted = Counted(tiny)
    results = together(
        [
            lambda s=s, t=t: s.generate(t, **GREEDY)  # type: ignore[misc]
            for s, t in zip([session, *copies], turns, strict=True)
        ]
    )
    assert counted.computed <= 3 * 5 + len(copies) * PAGE + 1
    for turn, result in zip(turns, results, strict=True):
        assert result.token_ids == alone.generate(held + turn, **GREEDY).token_ids
    assert session.token_ids == held + turns[0] + results[0].token_ids


def test_a_fork_outlives_its_trunk_and_cannot_be_made_of_a_busy_one(tiny: sm.Engine) -> None:
    session = tiny.text_session()
    result = session.generate(ids_of(64, "first"), **GREEDY)
    copy = session.fork()
    with session.stream([7, 8], **ENDLESS) as stream:
        next(stream)
        with pytest.raises(sm.SessionBusyError):
            session.fork()
        beside = copy.generate([7, 8], **GREEDY)
    session.close()
    with pytest.raises(sm.SessionClosedError):
        session.fork()
    assert beside.token_ids[:1] == [stream.result().token_ids[0]]
    assert copy.generate([9], **GREEDY).finish_reason == "length"
    assert len(copy) == 64 + len(result.token_ids) + 2 + 6 + 1 + 6
    assert tiny.text_session().fork().generate([5], **GREEDY).finish_reason == "length"


# Salts --------------------------------------------------------------------------------------------


def test_salts_never_share(tiny: sm.Engine) -> None:
    #
    ids = ids_of(100, "salted")
    seen = []
    for salt in (None, "a", "b", "a", None, "b"):
        result = tiny.generate(ids, cache_salt=salt, **GREEDY)
        seen.append(result.usage.cached_tokens)
    assert seen[:3] == [0, 0, 0]
    assert all(is_found(n_cached, 100) for n_cached in seen[3:])


def test_every_door_keeps_its_salt(tiny: sm.Engine) -> None:
    messages = [{"role": "user", "content": "the same question for all of them. " * 4}]
    ids = ids_of(100, "doors")

    def doors(salt: str | None) -> list[int]:
        options: dict[str, Any] = {} if salt is None else {"cache_salt": salt}
        found = [tiny.generate(ids, **options, **GREEDY).usage.cached_tokens]
        found.append(tiny.stream(ids, **options, **GREEDY).result().usage.cached_tokens)
        found.append(tiny.generate_many([ids], **options, **GREEDY)[0].usage.cached_tokens)
        with tiny.text_session(**options) as session, session.fork() as copy:
            found.append(copy.generate(ids, **GREEDY).usage.cached_tokens)
        found.append(tiny.chat(messages, **options, **GREEDY).usage.cached_tokens)
        stream = tiny.chat_stream(messages, **options, **GREEDY)
        found.append(stream.result().usage.cached_tokens)
        with tiny.chat_session(**options) as chat:
            found.append(chat.send(messages[0]["content"], **GREEDY).usage.cached_tokens)
        return found

    for salt in (None, "one", "two"):
        found = doors(salt)
        # The first text and the first chat of a salt find nothing, all others find them.
        assert [n == 0 for n in found] == [True, False, False, False, True, False, False], salt
        assert min(doors(salt)) > 0


@pytest.mark.parametrize("salt", ["x" * 257, "é" * 129, "x" * (1 << 20)])
def test_a_salt_that_is_too_long_is_refused(tiny: sm.Engine, salt: str) -> None:
    # in the caller's hands, before anything runs.
    for make in (tiny.text_session, tiny.chat_session):
        with pytest.raises(sm.InvalidArgumentError, match="cache_salt"):
            make(cache_salt=salt)
        with pytest.raises(sm.InvalidArgumentError, match="fairness_key"):
            make(fairness_key=salt)
    with pytest.raises(sm.InvalidArgumentError, match="cache_salt"):
        tiny.generate([5], cache_salt=salt, **GREEDY)
    assert tiny.generate([5], cache_salt="x" * 256, **GREEDY).finish_reason == "length"


@pytest.mark.parametrize("salt", [5, b"bytes", ["a"], 0.5])
def test_a_salt_is_text(tiny: sm.Engine, salt: Any) -> None:
    with pytest.raises(TypeError, match="cache_salt"):
        tiny.text_session(cache_salt=salt)
    with pytest.raises(TypeError, match="fairness_key"):
        tiny.text_session(fairness_key=salt)


# Room for so many pages ---------------------------------------------------------------------------


def limit_of(path: Path, n_tokens: int) -> int:
    with sm.Engine(path, n_threads=1) as engine:
        return n_tokens * engine.info.kv_bytes_per_token


def test_evicted_prefixes_are_computed_again_to_the_same_tokens(
    model: Path, alone: sm.Engine
) -> None:
    # pages go from hand to hand.
    limit = limit_of(model, 600)
    over: list[int] = []
    stop = threading.Event()
    with sm.Engine(model, n_threads=2, context_length=400, kv_limit=limit) as engine:

        def watch() -> None:
            while not stop.wait(0.001):
                over.append(engine.status().kv_bytes)

        watcher = threading.Thread(target=watch)
        watcher.start()
        sessions = [engine.text_session() for _ in range(6)]
        for turn in range(3):
            for i, session in enumerate(sessions):
                ids = ids_of(90 + i, f"{turn} {i}")
                held = session.token_ids
                result = session.generate(ids, **GREEDY)
                assert result.token_ids == alone.generate(held + ids, **GREEDY).token_ids
        stop.set()
        watcher.join()
        assert engine.status().n_evicted_pages > 0
        assert 0 < max(over) <= limit


def test_with_room_for_all_nothing_is_evicted(model: Path) -> None:
    with sm.Engine(model, n_threads=2, kv_limit=limit_of(model, 6_000)) as engine:
        for i in range(6):
            engine.generate(ids_of(200, i), **GREEDY)
        for i in range(6):
            found = engine.generate(ids_of(200, i), **GREEDY).usage.cached_tokens
            assert is_found(found, 200)
        assert engine.status().n_evicted_pages == 0


def test_the_least_recently_used_prefix_goes_first(model: Path) -> None:
    with sm.Engine(model, n_threads=2, context_length=400, kv_limit=limit_of(model, 900)) as engine:
        engine.generate(ids_of(200, "kept"), **GREEDY)
        for i in range(8):
            engine.generate(ids_of(200, i), **GREEDY)
            kept = engine.generate(ids_of(200, "kept"), **GREEDY)
            assert is_found(kept.usage.cached_tokens, 200), i
        assert engine.generate(ids_of(200, 0), **GREEDY).usage.cached_tokens < whole_pages(200)


def test_what_can_never_fit_is_refused_at_once(model: Path) -> None:
    limit = limit_of(model, 300)
    with sm.Engine(model, n_threads=2, kv_limit=limit) as engine:
        assert engine.info.kv_limit == limit
        with pytest.raises((sm.MemoryBudgetError, sm.ContextLengthError)):
            engine.generate(ids_of(100, "big"), max_tokens=700, temperature=0)
        with engine.text_session(max_kv_tokens=64) as small:
            with pytest.raises(sm.ContextLengthError):
                small.generate(ids_of(65, "long"), **GREEDY)
            assert len(small.generate(ids_of(50, "long"), **GREEDY).token_ids) == 6
        assert engine.generate(ids_of(100, "big"), **GREEDY).finish_reason == "length"


def test_many_that_fit_only_in_turn_all_come_through(model: Path, alone: sm.Engine) -> None:
    # L-03: admission reserves; nobody runs out of memory on the way.
    with sm.Engine(model, n_threads=2, context_length=256, kv_limit=limit_of(model, 512)) as engine:
        sampling = {**GREEDY, "max_tokens": 100}
        prompts = [ids_of(100 + i, i) for i in range(12)]
        results = together(
            [lambda p=p: engine.generate(p, **sampling) for p in prompts]  # type: ignore[misc]
        )
    expected = [alone.generate(prompt, **sampling).token_ids for prompt in prompts]
    assert [result.token_ids for result in results] == expected
