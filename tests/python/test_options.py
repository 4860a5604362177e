"""Options of engines and sessions: defaults, checks, and what each changes (B79, A-33, L-03)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_idle

import smallmind as sm

PROMPT = "The capital of France is"
GREEDY = sm.SamplingParams(temperature=0, max_tokens=12)


def test_engine_options_have_safe_defaults_and_are_the_same_for_aload() -> None:
    # B79
    expected = {
        "n_threads": None,
        "context_length": None,
        "enable_kv_cache": True,
        "cache_type": "bf16",
        "kv_limit": None,
        "max_kv_tokens": None,
        "max_queue_depth": None,
        "max_buffered_tokens": 256,
        "on_full": "pause",
        "request_timeout": None,
        "progress": None,
        "cancel": None,
    }
    for function in (sm.Engine.__init__, sm.Engine.aload):
        parameters = dict(inspect.signature(function).parameters)
        found = {n: p.default for n, p in parameters.items() if n not in ("self", "path")}
        assert found == expected


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("n_ctx", "context_length"),
        ("cache_type_k", "cache_type"),
        ("type_v", "cache_type"),
        ("kv_cache_dtype", "cache_type"),
        ("kv_cache_size", "kv_limit"),
        ("n_parallel", "max_queue_depth"),
        ("request_timeout_s", "request_timeout"),
        ("max_buffered_token", "max_buffered_tokens"),
    ],
)
def test_unknown_engine_options_get_a_suggestion(smollm2: Path, given: str, suggested: str) -> None:
    with pytest.raises(TypeError, match=f"'{given}'; did you mean '{suggested}'"):
        sm.Engine(smollm2, **{given: 1})  # type: ignore[arg-type]


def test_cache_type_halves_the_memory_of_keys_and_values(smollm2: Path, engine: sm.Engine) -> None:
    # B79
    with sm.Engine(smollm2, n_threads=2, cache_type="q8_0") as small:
        assert (engine.info.cache_type, small.info.cache_type) == ("bf16", "q8_0")
        ratio = small.info.kv_bytes_per_token / engine.info.kv_bytes_per_token
        assert ratio == pytest.approx(34 / 64, abs=0.01)  # 32 codes and a half against 32 halves
        assert "cache_type=q8_0" in repr(small)
        result = small.generate(PROMPT, params=GREEDY)
        assert result.text.startswith(" Paris")


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        (200_000_000, 200_000_000),
        (np.int64(200_000_000), 200_000_000),
        ("200000000", 200_000_000),
        ("256MiB", 256 << 20),
        (" 0.25 GiB ", 256 << 20),
        ("300 MB", 300_000_000),
    ],
)
def test_kv_limit_is_in_bytes(smollm2: Path, given: int | str, n_bytes: int) -> None:
    # B79
    with sm.Engine(smollm2, n_threads=1, kv_limit=given) as limited:
        assert limited.info.kv_limit == n_bytes
        assert f"kv_limit={n_bytes / 1e6:.1f} MB" in repr(limited)


def test_what_never_fits_kv_limit_is_refused(smollm2: Path) -> None:
    # L-03
    with (
        sm.Engine(smollm2, n_threads=1, kv_limit="4MiB", context_length=1_024) as tiny,
        tiny.text_session("greedy") as session,
    ):
        with pytest.raises(sm.MemoryBudgetError, match="session 'greedy': kv_limit") as caught:
            session.generate([5] * 900, max_tokens=100)
        assert caught.value.code == "MEMORY_BUDGET_EXCEEDED"
        assert len(session) == 0
        assert session.generate(PROMPT, max_tokens=2).usage.completion_tokens > 0
    with pytest.raises(sm.MemoryBudgetError, match="kv_limit"):
        sm.Engine(smollm2, kv_limit=1_000)


def test_max_kv_tokens_of_the_engine_bounds_every_session(smollm2: Path) -> None:
    # B79
    with sm.Engine(smollm2, n_threads=1, max_kv_tokens=20) as small:
        for session in (small.text_session(), small.text_session(max_kv_tokens=1_000)):
            with pytest.raises(sm.ContextLengthError, match="20"):
                session.generate([5] * 20)
            result = session.generate([5] * 10, max_tokens=100, ignore_eos=True)
            assert (result.usage.completion_tokens, len(session)) == (10, 20)
        assert small.text_session(max_kv_tokens=5).generate([5] * 4).usage.max_tokens == 1
        with pytest.raises(sm.ContextLengthError, match=r"prompts\[1\].*20"):
            small.generate_many([[5], [5] * 20])


def test_status_counts_since_load(smollm2: Path) -> None:
    with sm.Engine(smollm2, n_threads=2) as other, other.text_session() as session:
        assert other.status() == sm.EngineStatus(1, *[0] * 10)
        first = session.generate([5] * 100, max_tokens=10, ignore_eos=True)
        second = session.generate([6] * 10, max_tokens=10, ignore_eos=True)
        assert_idle(other)
        status = other.status()
        assert status.n_generated_tokens == 20
        prompts = first.usage.prompt_tokens + second.usage.prompt_tokens
        assert status.n_cached_tokens + status.n_computed_tokens == prompts
        assert status.n_cached_tokens == second.usage.cached_tokens == 109
        assert status.n_steps >= 20
        assert status.kv_bytes > 0 < status.n_kv_pages


def test_results_streams_and_errors_name_their_session(engine: sm.Engine) -> None:
    with engine.text_session("who") as session:
        stream = session.stream(PROMPT, max_tokens=3)
        assert stream.session_id == "who"
        with pytest.raises(sm.SessionBusyError, match="'who'"):
            session.fork()
        assert stream.result().session_id == stream.session_id == "who"
        stream.close()
        assert stream.session_id == "who"
        with pytest.raises(sm.ContextLengthError, match="'who'"):
            session.generate([5] * 8_192)
        assert session.generate(PROMPT, max_tokens=1).session_id == "who"
    with pytest.raises(sm.SessionClosedError, match="'who'"):
        session.generate(PROMPT)
    chat = engine.chat_session()
    assert chat.send("Hi", max_tokens=1).session_id == chat.id


def test_fork_is_a_session_of_its_own(engine: sm.Engine) -> None:
    with engine.text_session("trunk", max_kv_tokens=200) as session:
        session.generate(PROMPT, params=GREEDY)
        with session.fork("left") as left, session.fork() as right:
            assert (left.id, right.id != "trunk") == ("left", True)
            assert left.token_ids == right.token_ids == session.token_ids
            a = left.generate(" And", params=GREEDY)
            b = right.generate(" But", params=GREEDY)
            assert session.generate(" And", params=GREEDY).token_ids == a.token_ids
            assert min(a.usage.cached_tokens, b.usage.cached_tokens) >= 5 + 12 - 1
            assert left.generate([5], max_tokens=1_000).usage.max_tokens <= 200
    for bad in ("", "a\0", "\ud800", "x" * 257):
        with pytest.raises(sm.InvalidArgumentError, match="session"):
            engine.text_session().fork(bad)
    with pytest.raises(TypeError, match="session_id"):
        engine.text_session().fork(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["cache_salt", "fairness_key", "session_id"])
def test_names_of_sessions_are_checked(engine: sm.Engine, field: str) -> None:
    #
    for bad in ("", "a\0b", "\ud800", "x" * 257, "é" * 129):
        with pytest.raises(sm.InvalidArgumentError, match=field.replace("_", ".")):
            engine.text_session(**{field: bad})  # type: ignore[arg-type]
    for wrong in (b"a", 1, True, ["a"]):
        with pytest.raises(TypeError, match=field):
            engine.text_session(**{field: wrong})  # type: ignore[arg-type]
    engine.text_session(**{field: "é" * 128}).close()  # type: ignore[arg-type]


def test_every_door_takes_salt_and_key(engine: sm.Engine) -> None:
    # A-33, B79: nothing is shared across salts, whatever the door.
    ids = list(range(700, 800))
    cached: dict[str | None, list[int]] = {}
    for salt in (None, "one", "two"):
        options: dict[str, Any] = {"cache_salt": salt, "fairness_key": salt, "max_tokens": 2}
        first = engine.generate(ids, **options)
        stream = engine.stream(ids, **options)
        (many,) = engine.generate_many([ids], **options)
        usages = [r.usage.cached_tokens for r in (first, stream.result(), many)]
        with engine.text_session(cache_salt=salt) as session:
            usages.append(session.generate(ids, max_tokens=2).usage.cached_tokens)
        messages = [{"role": "user", "content": "tell me of the sea " * 20}]
        usages.append(engine.chat(messages, **options).usage.cached_tokens)
        usages.append(engine.chat_stream(messages, **options).result().usage.cached_tokens)
        cached[salt] = usages
    assert cached["one"] == cached["two"]
    assert cached["one"][0] == cached["one"][4] == 0
    assert all(n >= 64 for n in (*cached["one"][1:4], cached["one"][5]))
