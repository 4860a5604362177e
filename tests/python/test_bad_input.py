"""Bad arguments and states: a typed error names the argument, and the engine goes on (A-06..A-20).

After each case a short request gives the text that it always gave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_idle

import smallmind as sm

PROMPT = "The capital of France is"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def expected(engine: sm.Engine) -> list[int]:
    return engine.generate(PROMPT, temperature=0, max_tokens=3).token_ids


@pytest.fixture
def healthy(engine: sm.Engine, expected: list[int]) -> Iterator[sm.Engine]:
    yield engine
    assert engine.generate(PROMPT, temperature=0, max_tokens=3).token_ids == expected
    assert_idle(engine)


INVALID = [
    #
    ("max_tokens", [0, -1, -(2**31), 2**63, -(2**70)]),
    #
    ("temperature", [NAN, INF, -INF, -1, -1e-45, 1e38]),
    ("top_k", [-1, 2**31, 2**63]),
    ("top_p", [NAN, INF, 0, -1, 1.1]),
    ("min_p", [NAN, INF, -0.1, 1.1]),
    ("repeat_penalty", [NAN, INF, 0, -1, 1e38]),
    ("repeat_last_n", [-1, 2**31]),
    ("presence_penalty", [NAN, INF, -1e38, 101]),
    ("frequency_penalty", [NAN, -INF, 1e38, -101]),
    #
    (
        "logit_bias",
        [{49_152: 1.0}, {49_153: 1.0}, {-1: 1.0}, {2**40: 1.0}, {2**70: 1.0}, {1: NAN}, {1: INF}],
    ),
    ("logit_bias", [dict.fromkeys(range(1025), 0.5), dict.fromkeys(range(10**6), 0.5)]),
    #
    ("stop", ["", [""], ["ok", ""], ["x"] * 17, ["x"] * 10**5, "x" * 257, "x" * 2**20, "\ud800"]),
    ("logprobs", [-1, 21, 10**6, 2**63]),
    ("seed", [-1, 2**64, 2**200]),
    ("timeout", [0, -1.0, NAN, INF]),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in INVALID for value in values],
    ids=lambda v: f"{v!r:.24}",
)
def test_values_out_of_range_name_the_field(healthy: sm.Engine, name: str, value: Any) -> None:
    with pytest.raises(sm.InvalidArgumentError, match=name) as caught:
        healthy.generate(PROMPT, **{name: value})
    assert len(str(caught.value)) < 300
    assert caught.value.code == "INVALID_ARGUMENT"


WRONG_TYPES = [
    ("max_tokens", ["5", 5.0, True, [5]]),
    ("temperature", ["hot", True, [0.5], 1j]),
    ("top_k", [4.0, False, "4"]),
    ("stop", [5, b"x", [5], ["a", None], {"a": 1}.keys().__iter__()]),
    ("ignore_eos", [1, "yes", None]),
    ("logit_bias", [{"AI": 1.0}, {1: "x"}, [(1, 1.0)], {1.5: 1.0}, {True: 1.0}]),
    ("logprobs", [True, 2.0, "2"]),
    ("seed", [1.0, "1", True]),
    ("timeout", ["1", [1]]),
    ("cancel", [1, "token", threading.Event()]),
    ("params", [{"temperature": 1}, 5]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_TYPES for value in values]
)
def test_wrong_types_are_type_errors(healthy: sm.Engine, name: str, value: Any) -> None:
    # True is an int in Python and no number of tokens here.
    with pytest.raises(TypeError, match=name if name not in ("timeout", "cancel") else None):
        healthy.generate(PROMPT, **{name: value})


@pytest.mark.parametrize(
    ("call", "wrong", "right"),
    [
        (lambda e, k: e.generate("x", **k), "temp", "temperature"),
        (lambda e, k: e.generate("x", **k), "max_new_tokens", "max_tokens"),
        (lambda e, k: e.generate("x", **k), "repetition_penalty", "repeat_penalty"),
        (lambda e, k: e.generate("x", **k), "top_logprobs", "logprobs"),
        (lambda e, k: e.stream("x", **k), "n_predict", "max_tokens"),
        (lambda e, k: e.chat([], **k), "tempreature", "temperature"),
        (lambda e, k: e.text_session().generate("x", **k), "stop_sequences", "stop"),
        (lambda e, k: e.chat_session().send("x", **k), "top_kk", "top_k"),
        (lambda e, k: e.chat_session(**k), "system_prompt", "system"),
        (lambda e, k: sm.Engine("x", **k), "n_ctx", "context_length"),
        (lambda e, k: sm.Engine("x", **k), "threads", "n_threads"),
        (lambda e, k: sm.SamplingParams(**k), "max_length", "max_tokens"),
    ],
)
def test_unknown_keyword_suggests_the_known_one(
    engine: sm.Engine, call: Callable[..., Any], wrong: str, right: str
) -> None:
    # no unknown field reaches the engine.
    with pytest.raises(TypeError, match=f"{wrong!r}; did you mean {right!r}"):
        call(engine, {wrong: 1})


def test_empty_prompts(healthy: sm.Engine) -> None:
    #
    for empty in ("", [], np.array([], np.int64)):
        with pytest.raises(sm.InvalidArgumentError, match=r"(prompt|ids).*empty"):
            healthy.generate(empty)
    with pytest.raises(sm.InvalidArgumentError, match="messages"):
        healthy.chat([])
    with pytest.raises(sm.InvalidArgumentError, match="text"):
        healthy.chat_session().send("")
    with pytest.raises(sm.InvalidArgumentError, match=r"messages\[0\].role"):
        healthy.chat([{"content": "x"}])


@pytest.mark.parametrize("prompt", [None, 5, 5.0, b"bytes", True, {"a": 1}.items(), object()])
def test_prompt_of_another_type(healthy: sm.Engine, prompt: Any) -> None:
    with pytest.raises(TypeError, match="prompt"):
        healthy.generate(prompt)


@pytest.mark.parametrize(
    "ids", [[-1], [49_152], [1, 2, 2**62], [2**70], [0] * 5 + [-(2**31)]], ids=repr
)
def test_ids_out_of_range(healthy: sm.Engine, ids: list[int]) -> None:
    #
    with pytest.raises(sm.InvalidArgumentError, match=rf"\[{len(ids) - 1}\]"):
        healthy.generate(ids)
    with pytest.raises(sm.InvalidArgumentError, match=rf"\[{len(ids) - 1}\]"):
        healthy.score(ids)
    with pytest.raises(sm.InvalidArgumentError, match=rf"\[{len(ids) - 1}\]"):
        healthy.tokenizer.decode(ids)


@pytest.mark.parametrize("ids", [[1.0], ["1"], [None], [True], [1, [2]]], ids=repr)
def test_ids_of_another_type(healthy: sm.Engine, ids: list[Any]) -> None:
    for call in (healthy.generate, healthy.score, healthy.tokenizer.decode):
        with pytest.raises(TypeError, match=r"\[\d\]: wants int"):
            call(ids)


def test_ten_million_ids_are_refused_by_their_number(healthy: sm.Engine) -> None:
    with pytest.raises(sm.ContextLengthError, match="10000000"):
        healthy.generate(np.ones(10**7, np.int32))


def test_prompts_around_the_context_length(smollm2: Path) -> None:
    # one below leaves room for one token; the context itself does not.
    with sm.Engine(smollm2, context_length=32) as small:
        result = small.generate([5] * 31, temperature=0, ignore_eos=True)
        assert len(result.token_ids) == 1
        assert (result.finish_reason, result.usage.max_tokens) == ("length", 1)
        for n in (32, 33, 1_000):
            with pytest.raises(sm.ContextLengthError, match=f"{n}.*32"):
                small.generate([5] * n)
            with pytest.raises(sm.ContextLengthError, match=f"{n}.*32"):
                list(small.stream([5] * n))
        session = small.text_session(max_kv_tokens=16)
        with pytest.raises(sm.ContextLengthError, match=r"17.*16"):
            session.generate([5] * 17)
        assert session.token_ids == []
        assert session.generate([5] * 15, ignore_eos=True).finish_reason == "length"


@pytest.mark.parametrize(
    ("text", "where"),
    [("\ud800", 0), ("ok \udfff", 3), ("a" * 50 + "\udc80b", 50)],
)
def test_lone_surrogates_are_not_text(healthy: sm.Engine, text: str, where: int) -> None:
    #
    for call in (
        healthy.generate,
        healthy.tokenizer.encode,
        lambda t: healthy.chat([{"role": "user", "content": t}]),
        lambda t: healthy.chat_session(system=t),
        healthy.chat_session().send,
    ):
        with pytest.raises(sm.InvalidArgumentError, match=f"surrogate at character {where}"):
            call(text)


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\ufeffx", "e" + "\u0301" * 100, "\u202e x", "\x1b[31m"]
)
def test_odd_texts_are_texts(healthy: sm.Engine, text: str) -> None:
    #
    tokenizer = healthy.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert healthy.generate(text, max_tokens=1).usage.completion_tokens <= 1


@pytest.mark.parametrize(
    ("messages", "error", "where"),
    [
        ("Hello", TypeError, "messages"),
        (None, TypeError, "messages"),
        ([5], TypeError, r"messages\[0\]"),
        (["x"], TypeError, r"messages\[0\]"),
        (
            [{"role": "user", "content": "x"}, {"role": "user"}],
            ValueError,
            r"messages\[1\].content",
        ),
        ([{"role": "user", "content": None}], TypeError, r"messages\[0\].content"),
        ([{"role": "user", "content": [{"text": "x"}]}], TypeError, r"messages\[0\].content"),
        ([{"role": 5, "content": "x"}], TypeError, r"messages\[0\].role"),
        ([{"role": "usr", "content": "x"}], ValueError, r"messages\[0\].role"),
        ([{"role": "user", "content": "x", "__class__": 5}], TypeError, r"messages\[0\]"),
        ([{"role": "user", "content": "x", "a b": "c"}], ValueError, r"messages\[0\]"),
        ([{"role": "user", "content": "x"}] * 2_049, ValueError, "2048"),
    ],
)
def test_messages_are_checked(
    healthy: sm.Engine, messages: Any, error: type[Exception], where: str
) -> None:
    #
    with pytest.raises(error, match=where):
        healthy.chat(messages)
    with pytest.raises(error, match=where):
        healthy.chat_session(messages=messages)


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"n_threads": -1}, ValueError, "n_threads"),
        ({"n_threads": 65}, ValueError, "n_threads"),
        ({"n_threads": 2**40}, ValueError, "n_threads"),
        ({"n_threads": 2**80}, ValueError, "n_threads"),
        ({"n_threads": 1.0}, TypeError, "n_threads"),
        ({"n_threads": True}, TypeError, "n_threads"),
        ({"context_length": 0}, ValueError, "context_length"),
        ({"context_length": -5}, ValueError, "context_length"),
        ({"context_length": 8_193}, ValueError, "context_length"),
        ({"context_length": "1"}, TypeError, "context_length"),
        ({"enable_kv_cache": 1}, TypeError, "enable_kv_cache"),
        ({"progress": 5}, TypeError, "progress"),
        ({"cancel": 5}, TypeError, "cancel"),
    ],
)
def test_engine_options(
    smollm2: Path, options: dict[str, Any], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=name):
        sm.Engine(smollm2, **options)


def test_session_options(healthy: sm.Engine) -> None:
    for value in (0, -1, 2**70):
        with pytest.raises(sm.InvalidArgumentError, match="max_kv_tokens"):
            healthy.text_session(max_kv_tokens=value)
    with pytest.raises(TypeError, match="max_kv_tokens"):
        healthy.text_session(max_kv_tokens="5")  # type: ignore[arg-type]
    with pytest.raises(sm.InvalidArgumentError, match="session_id"):
        healthy.text_session(session_id="")
    with pytest.raises(TypeError, match="session_id"):
        healthy.text_session(session_id=5)  # type: ignore[arg-type]


def test_paths(tmp_path: Path, smollm2: Path) -> None:
    with pytest.raises(sm.ModelNotFoundError, match=r"missing\.gguf"):
        sm.Engine(tmp_path / "missing.gguf")
    with pytest.raises(FileNotFoundError):
        sm.Tokenizer.from_gguf(str(tmp_path / "missing.gguf"))
    with pytest.raises(sm.ModelIOError):
        sm.Engine(tmp_path)
    for path in ("", "a\0b"):
        with pytest.raises(sm.InvalidArgumentError, match="path"):
            sm.Engine(path)
    with pytest.raises(TypeError):
        sm.Engine(5)  # type: ignore[arg-type]
    strange = tmp_path / "gr\udcfc\u00df e.gguf"  # a byte that is no UTF-8
    strange.symlink_to(smollm2)
    with sm.Engine(strange, n_threads=1) as engine:
        assert engine.info.model_path == str(strange)
    assert sm.Tokenizer.from_gguf(bytes(strange)).n_vocab == 49_152


@pytest.mark.parametrize(
    ("out", "error"),
    [
        ([[0.0]], TypeError),
        (np.zeros((2, 49_152), np.float64), TypeError),
        (np.zeros((2, 49_151), np.float32), ValueError),
        (np.zeros((3, 49_152), np.float32), ValueError),
        (np.zeros((2 * 49_152,), np.float32), ValueError),
        (np.zeros((2, 2 * 49_152), np.float32)[:, ::2], ValueError),
        (np.zeros((49_152, 2), np.float32).T, ValueError),
    ],
)
def test_score_checks_the_array(healthy: sm.Engine, out: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="out"):
        healthy.score([1, 2], out=out)


def test_score_checks_positions_and_a_read_only_array(healthy: sm.Engine) -> None:
    frozen = np.zeros((2, 49_152), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(sm.InvalidArgumentError, match="out"):
        healthy.score([1, 2], out=frozen)
    for positions in ([2], [-1], [1, 0], [0, 0], [2**62], [2**70]):
        with pytest.raises(sm.InvalidArgumentError, match="positions"):
            healthy.score([1, 2], positions=positions)
    assert healthy.score([]).shape == (0, 49_152)


def test_ids_are_copied_before_they_are_used(healthy: sm.Engine) -> None:
    # P-12: another thread writes into the array all the while.
    ids = np.arange(600, dtype=np.int32)
    expected = healthy.score(np.arange(600), positions=[599])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            ids[:] = 2**31 - 1
            ids[:] = np.arange(600)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            try:
                scores = healthy.score(ids, positions=[599])
            except sm.InvalidArgumentError:
                continue  # read while the other thread's values stood there
            assert scores.tobytes() == expected.tobytes() or not np.isnan(scores).any()
    finally:
        stop.set()
        thread.join()

    class Changing:
        """Its __index__ empties the list that it stands in."""

        def __index__(self) -> int:
            values.clear()
            return 1

    values: list[Any] = [1, Changing(), 3, 4]
    assert healthy.score(values).shape[0] == 4


def test_use_after_close(smollm2: Path) -> None:
    other = sm.Engine(smollm2, n_threads=1)
    session, chat, idle = other.text_session(), other.chat_session(), other.text_session()
    stream = session.stream(PROMPT, max_tokens=500, ignore_eos=True)
    next(stream)
    idle.close()
    idle.close()
    for call in (lambda: idle.generate("x"), lambda: idle.stream("x"), idle.reset):
        with pytest.raises(sm.SessionClosedError):
            call()
    other.close()
    other.close()
    assert other.closed
    with pytest.raises(sm.EngineClosedError):
        list(stream)
    for call in (
        lambda: other.generate("x"),
        lambda: other.stream("x"),
        lambda: other.chat([{"role": "user", "content": "x"}]),
        other.text_session,
        other.chat_session,
        lambda: other.score([1]),
        lambda: session.generate("x"),
        lambda: chat.send("x"),
    ):
        with pytest.raises((sm.EngineClosedError, sm.SessionClosedError)):
            call()
    assert other.tokenizer.encode("still here")
    session.close()
    chat.close()
    stream.close()
    session.cancel()


def test_second_call_on_a_session_says_what_is_open(healthy: sm.Engine) -> None:
    # A11, A12, A13, B75
    session = healthy.text_session(session_id="mine")
    with session.stream(PROMPT, max_tokens=200, ignore_eos=True) as stream:
        next(stream)
        for call in (
            lambda: session.generate("x"),
            lambda: session.stream("x"),
            session.reset,
        ):
            with pytest.raises(sm.SessionBusyError, match=r"session\.cancel\(\)"):
                call()
        assert next(stream).index == 1
    assert session.generate(" the", max_tokens=1).usage.completion_tokens == 1
    chat = healthy.chat_session()
    with chat.stream("Count to a hundred.", max_tokens=200) as answer:
        next(answer)
        with pytest.raises(sm.SessionBusyError, match=r"session\.cancel\(\)"):
            chat.send("x")
        with pytest.raises(sm.SessionBusyError):
            chat.stream("x")
        with pytest.raises(sm.SessionBusyError):
            chat.reset()
    assert len(chat.messages) == 2
