"""Nobody can tell who else is there: not by tokens, not by time, not by order.

Hazards A-31 to A-35. Tenants are salts. The long run of the timing probes is `--all`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from load import area_under_curve, ids_of, time_to_first_token, together
from mix_runs import tiny_model
from tiny_models import TinySpec, write_tiny

import smallmind as sm

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}
NOT_A_NUMBER = 77  # the token whose embedding is poison; nobody generates it by chance
CLEAN: dict[str, Any] = {**GREEDY, "logit_bias": {NOT_A_NUMBER: float("-inf")}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture
def tiny(model: Path) -> Iterator[sm.Engine]:
    with sm.Engine(model, n_threads=2) as engine:
        yield engine


# Time ---------------------------------------------------------------------------------------------


def probe_times(engine: sm.Engine, n_probes: int, salt: str | None) -> tuple[list[float], ...]:
    """Time to first token of prompts that the tenant "victim" has asked, and of prompts that
    nobody has, in random order; by a caller of `salt`."""
    order = random.Random(1)
    known: list[float] = []
    unknown: list[float] = []
    for i in range(n_probes):
        ids = ids_of(900, f"probe {salt} {i}")
        other = ids_of(900, f"never asked {salt} {i}")
        engine.generate(ids, max_tokens=1, cache_salt="victim")
        pair = [(ids, known), (other, unknown)]
        order.shuffle(pair)
        for prompt, times in pair:
            times.append(time_to_first_token(engine, prompt, cache_salt=salt))
    return known, unknown


def test_timing_does_not_tell_what_another_tenant_asked(
    tiny: sm.Engine, request: pytest.FixtureRequest
) -> None:
    # four standard deviations of the measure about a half.
    n_probes = 1_000 if request.config.getoption("--all") else 150
    slack = 4 * (6 * n_probes) ** -0.5
    for salt in ("attacker", None):
        seen = area_under_curve(*probe_times(tiny, n_probes, salt))
        assert abs(seen - 0.5) < slack, (salt, seen)
    # The probe is sharp: who has the victim's salt is told by it.
    assert area_under_curve(*probe_times(tiny, 40, "victim")) > 0.8


def test_another_tenants_prefix_gives_no_precedence(tiny: sm.Engine) -> None:
    # of two equal requests of an attacker, the one that the victim asked before comes first
    # as often as the other.
    first = 0
    n_pairs = 100
    for i in range(n_pairs):
        known, unknown = ids_of(200, f"known {i}"), ids_of(200, f"unknown {i}")
        tiny.generate(known, max_tokens=1, cache_salt="victim")
        pair = [known, unknown] if i % 2 else [unknown, known]
        results = tiny.generate_many(pair, cache_salt="attacker", **GREEDY)
        assert [result.usage.cached_tokens for result in results] == [0, 0]
        seconds = [result.timings.first_token_s for result in results]
        first += (seconds[0] <= seconds[1]) == (pair[0] is known)
    assert 0.3 * n_pairs <= first <= 0.7 * n_pairs


# Salts that are hard to hold ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "salt", [" ", "é", "ключ", "x" * 256, "\U0001f642" * 64], ids=lambda salt: ascii(salt[:4])
)
def test_every_salt_is_its_own(tiny: sm.Engine, salt: str) -> None:
    # neither cut nor folded.
    ids = ids_of(100, "salt")
    for other in (None, "a", "  ", "e", "ключи", "x" * 255, "\U0001f642" * 63):
        tiny.generate(ids, cache_salt=other, **GREEDY)
    assert tiny.generate(ids, cache_salt=salt, **GREEDY).usage.cached_tokens == 0
    assert tiny.generate(ids, cache_salt=salt, **GREEDY).usage.cached_tokens >= 96


@pytest.mark.parametrize("salt", ["\ud800", "x\udfff", "a\0b", "\0", ""], ids=ascii)
def test_a_salt_that_is_no_text_is_refused(tiny: sm.Engine, salt: str) -> None:
    with pytest.raises(sm.InvalidArgumentError, match="cache_salt"):
        tiny.generate([5], cache_salt=salt, **GREEDY)
    assert tiny.generate([5], **GREEDY).finish_reason == "length"


# Neighbours ---------------------------------------------------------------------------------------


def poisoned(folder: Path) -> Path:
    """One token's embedding is not a number; all others are as they should be."""
    path = write_tiny(folder / "poisoned.gguf", TinySpec(tied=False))
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[NOT_A_NUMBER] = np.float32("nan")
    return path


def test_thirty_one_neighbours_change_nothing(tmp_path: Path) -> None:
    # one of them gives NaN, one is cancelled, and some share the prompt's beginning.
    model = poisoned(tmp_path)
    ids = [i if i != NOT_A_NUMBER else 78 for i in ids_of(120, "me")]
    with sm.Engine(model, n_threads=1, enable_kv_cache=False) as plain:
        expected = plain.generate(ids, logprobs=3, **CLEAN)

    def poison(engine: sm.Engine) -> None:
        with pytest.raises(sm.InferenceError) as caught:
            engine.generate([*ids[:64], NOT_A_NUMBER, 11, 12], **CLEAN)
        assert caught.value.code == "NON_FINITE_LOGITS"

    def cancelled(engine: sm.Engine) -> None:
        with engine.stream([*ids[:40], 9], **{**CLEAN, "max_tokens": 300}) as stream:
            next(stream)

    def other(engine: sm.Engine, i: int) -> None:
        prompt = ids[: 4 * i] + [90 + i] * (31 - i)
        engine.generate(prompt, **{**CLEAN, "seed": i, "temperature": 1, "max_tokens": 5 + i})

    with sm.Engine(model, n_threads=2) as engine:
        for _ in range(5):
            work: list[Callable[[], Any]] = [
                lambda: engine.generate(ids, logprobs=3, **CLEAN),
                lambda: poison(engine),
                lambda: cancelled(engine),
                *(lambda i=i: other(engine, i) for i in range(29)),  # type: ignore[misc]
            ]
            me = together(work)[0]
            assert (me.token_ids, me.text) == (expected.token_ids, expected.text)
            assert me.logprobs == expected.logprobs


def test_poison_does_not_stay_in_pages(tmp_path: Path) -> None:
    # what a failed request has written is read by nobody, though its pages are used again.
    model = poisoned(tmp_path)
    with sm.Engine(model, n_threads=1) as probe:
        limit = 300 * probe.info.kv_bytes_per_token
    prompts = [[10 + (i * j) % 60 for j in range(1, 150 + i)] for i in range(1, 5)]
    with (
        sm.Engine(model, n_threads=2, enable_kv_cache=False) as plain,
        sm.Engine(model, n_threads=2, context_length=256, kv_limit=limit) as engine,
    ):
        for prompt in prompts:
            expected = plain.generate(prompt, **CLEAN).token_ids
            for position in (0, 31, 70, 130):
                bad = list(prompt)
                bad[position] = NOT_A_NUMBER
                with pytest.raises(sm.InferenceError):
                    engine.generate(bad, **CLEAN)
                assert engine.generate(prompt, **CLEAN).token_ids == expected
