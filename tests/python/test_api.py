"""The Python API of design.md section 4, on the real default model: names, results, streams."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import smallmind as sm

PROMPT = "The capital of France is"
GREEDY = sm.SamplingParams(temperature=0, max_tokens=12)


def test_engine_says_which_defaults_it_chose(engine: sm.Engine) -> None:
    # A1, A5: one factory, options in one place; repr shows threads and context.
    info = engine.info
    assert (info.architecture, info.n_vocab, info.context_length) == ("llama", 49_152, 8_192)
    assert f"n_threads={info.n_threads}" in repr(engine)
    assert "context_length=8192" in repr(engine)
    assert info.isa in repr(engine)


def test_engine_takes_options_and_is_a_context_manager(smollm2: Path) -> None:
    with sm.Engine(str(smollm2), n_threads=1, context_length=64) as small:
        assert (small.info.n_threads, small.info.context_length) == (1, 64)
        assert not small.closed
    assert small.closed
    assert "closed" in repr(small)


def test_load_tells_progress_in_the_caller_s_thread(smollm2: Path) -> None:
    # A33: at most 20 calls a second, the last with everything done.
    calls: list[tuple[str, int, int]] = []
    sm.Engine(smollm2, progress=lambda *call: calls.append(call)).close()
    assert calls
    stage, done, total = calls[-1]
    assert stage == "weights"
    assert done == total > 90_000_000
    assert all(0 <= done <= total for _, done, total in calls)


def test_what_progress_raises_comes_out_of_the_load(smollm2: Path) -> None:
    # P-07
    class Stop(BaseException):
        pass

    def refuse(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        sm.Engine(smollm2, progress=refuse)


def test_kv_cache_off_changes_the_work_and_not_the_text(smollm2: Path, engine: sm.Engine) -> None:
    # A41
    texts = []
    for switch in (True, False):
        with (
            sm.Engine(smollm2, n_threads=2, enable_kv_cache=switch) as other,
            other.text_session() as session,
        ):
            session.generate(PROMPT, params=GREEDY)
            second = session.generate(" And then", params=GREEDY)
            texts.append((second.text, second.token_ids))
            assert (second.usage.cached_tokens > 0) == switch
    assert texts[0] == texts[1]


def test_result_has_every_field(engine: sm.Engine) -> None:
    result = engine.generate(PROMPT, max_tokens=5, temperature=0, logprobs=3)
    assert result.finish_reason == "length"
    assert result.code is None
    result.check()
    assert len(result.token_ids) == result.usage.completion_tokens == 5
    assert result.usage.prompt_tokens == 5
    assert result.usage.total_tokens == 10
    assert result.usage.max_tokens == 5
    assert str(result) == result.text == engine.tokenizer.decode(result.token_ids)
    timings = result.timings
    assert 0 <= timings.queue_s <= timings.first_token_s
    assert timings.prefill_s > 0
    assert timings.decode_s > 0
    assert result.logprobs is not None
    assert len(result.logprobs) == 5
    for token_id, logprob in zip(result.token_ids, result.logprobs, strict=True):
        assert logprob.id == token_id
        assert len(logprob.top) == 3
        assert logprob.top[0] == (token_id, pytest.approx(logprob.logprob))  # greedy
        assert -20 < float(logprob) <= 0
    assert engine.generate(PROMPT, max_tokens=1).logprobs is None


def test_logprobs_are_those_of_the_scores(engine: sm.Engine) -> None:
    result = engine.generate(PROMPT, max_tokens=3, temperature=0, logprobs=1)
    prompt = engine.tokenizer.encode(PROMPT)
    logits = engine.score([*prompt, *result.token_ids]).astype(np.float64)
    assert result.logprobs is not None
    for i, logprob in enumerate(result.logprobs):
        row = logits[len(prompt) - 1 + i]
        expected = row[logprob.id] - row.max() - np.log(np.exp(row - row.max()).sum())
        assert logprob.logprob == pytest.approx(expected, abs=1e-5)


def test_stream_gives_each_token_once_and_joins_to_the_text(engine: sm.Engine) -> None:
    with engine.text_session() as session:
        stream = session.stream(PROMPT, params=GREEDY)
        assert stream.finish_reason is None
        tokens = list(stream)
        result = stream.result()
    assert [token.index for token in tokens] == list(range(12))
    assert [token.id for token in tokens] == result.token_ids
    assert "".join(token.text for token in tokens) == "".join(map(str, tokens)) == result.text
    assert stream.finish_reason == result.finish_reason == "length"
    assert result.token_ids == engine.generate(PROMPT, params=GREEDY).token_ids
    assert list(stream) == []


def test_stream_text_is_whole_characters(engine: sm.Engine) -> None:
    # characters of three and four bytes come in tokens of one byte.
    text = "日本語 🙂🙃 🤖 🙂🙃 🤖 🙂🙃 🤖 🙂🙃"
    for seed in range(4):
        tokens = list(engine.stream(text, max_tokens=30, seed=seed, temperature=1.5, top_k=0))
        for token in tokens:
            token.text.encode("utf-8")
        whole = engine.generate(text, max_tokens=30, seed=seed, temperature=1.5, top_k=0)
        assert "".join(map(str, tokens)) == whole.text
        assert "\ufffd" not in "".join(token.text for token in tokens[:-1]) or "\ufffd" in (
            engine.tokenizer.decode(whole.token_ids)
        )


def test_stop_strings_are_cut_and_never_seen(engine: sm.Engine) -> None:
    # over a token border, given as a str or a list.
    free = engine.generate(PROMPT, temperature=0, max_tokens=24).text
    middle = free[5:9]
    for stop in (middle, [middle], ["never so", middle]):
        result = engine.generate(PROMPT, temperature=0, max_tokens=24, stop=stop)
        assert result.text == free[: free.index(middle)]
        assert result.finish_reason == "stop"
        stream = engine.stream(PROMPT, temperature=0, max_tokens=24, stop=stop)
        assert "".join(map(str, stream)) == result.text


def test_seed_decides_the_text(engine: sm.Engine) -> None:
    # A17
    first, again, other = (
        engine.generate(PROMPT, seed=seed, max_tokens=16, temperature=1.0) for seed in (7, 7, 8)
    )
    assert first.seed == 7
    assert first.token_ids == again.token_ids != other.token_ids
    drawn = engine.generate(PROMPT, max_tokens=16, temperature=1.0)
    replayed = engine.generate(PROMPT, max_tokens=16, temperature=1.0, seed=drawn.seed)
    assert drawn.token_ids == replayed.token_ids


def test_keywords_win_over_params(engine: sm.Engine) -> None:
    params = sm.SamplingParams(temperature=0, max_tokens=3)
    assert engine.generate(PROMPT, params=params).usage.max_tokens == 3
    assert engine.generate(PROMPT, params=params, max_tokens=2).usage.max_tokens == 2
    assert params.replace(max_tokens=9).temperature == 0
    assert repr(params) == "SamplingParams(max_tokens=3, temperature=0.0)"


def test_logit_bias_bans_and_forces(engine: sm.Engine) -> None:
    best = engine.generate(PROMPT, temperature=0, max_tokens=1).token_ids[0]
    banned = engine.generate(PROMPT, temperature=0, max_tokens=1, logit_bias={best: -float("inf")})
    assert banned.token_ids[0] != best
    forced = engine.generate(PROMPT, temperature=0, max_tokens=2, logit_bias={1_234: 1e4})
    assert forced.token_ids == [1_234, 1_234]


def test_session_grows_and_resets(engine: sm.Engine) -> None:
    # A15, A19, A20, A23, A42
    with engine.text_session(session_id="user-123-session-456") as session:
        assert session.id == "user-123-session-456"
        assert len(session) == 0
        assert bool(session)
        first = session.generate(PROMPT, params=GREEDY)
        prompt_ids = engine.tokenizer.encode(PROMPT)
        assert session.token_ids == [*prompt_ids, *first.token_ids]
        second = session.generate(" and", params=GREEDY)
        assert second.usage.prompt_tokens == len(prompt_ids) + 12 + 1
        # The last generated token was never computed here, the rest is reused.
        assert second.usage.cached_tokens >= len(prompt_ids) + 12 - 1
        assert len(session) == second.usage.total_tokens
        session.reset()
        assert session.token_ids == []
        assert session.generate(PROMPT, params=GREEDY).token_ids == first.token_ids
    names = {engine.text_session().id for _ in range(50)}
    assert len(names) == 50


def test_prompt_may_be_ids(engine: sm.Engine) -> None:
    ids = engine.tokenizer.encode(PROMPT)
    expected = engine.generate(PROMPT, params=GREEDY).token_ids
    for prompt in (ids, tuple(ids), np.array(ids)):
        assert engine.generate(prompt, params=GREEDY).token_ids == expected


def test_score_fills_the_caller_s_array(engine: sm.Engine) -> None:
    ids = engine.tokenizer.encode("One two three four five six seven")
    whole = engine.score(ids)
    assert whole.shape == (len(ids), 49_152)
    assert whole.dtype == np.float32
    out = np.full((2, 49_152), np.nan, np.float32)
    part = engine.score(ids, positions=[1, 4], out=out)
    assert np.shares_memory(part, out)
    assert out.tobytes() == whole[[1, 4]].tobytes()
    best = engine.generate(ids, temperature=0, max_tokens=1).token_ids[0]
    assert int(whole[-1].argmax()) == best


def test_tokenizer_needs_no_engine(smollm2: Path, engine: sm.Engine) -> None:
    tokenizer = sm.Tokenizer.from_gguf(smollm2)
    text = "Grüße, 世界! <|im_end|>"
    ids = tokenizer.encode(text)
    assert ids == engine.tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert 2 not in ids
    assert 2 in tokenizer.encode(text, parse_special=True)
    assert (len(tokenizer), tokenizer.bos_id, tokenizer.eos_id) == (49_152, 1, 2)


def test_results_are_frozen_and_picklable(engine: sm.Engine) -> None:
    result = engine.generate(PROMPT, max_tokens=2, logprobs=1)
    answer = engine.chat([{"role": "user", "content": "Hi"}], max_tokens=2)
    token = next(engine.stream(PROMPT, max_tokens=1))
    params = sm.SamplingParams(stop=["a"], logit_bias={3: 1.0}, seed=1)
    for value in (result, answer, token, result.usage, result.timings, params, engine.info):
        assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.text = "x"  # type: ignore[union-attr, misc]


def test_living_objects_refuse_pickle_and_copy(engine: sm.Engine) -> None:
    session, chat = engine.text_session(), engine.chat_session()
    stream = engine.stream(PROMPT, max_tokens=1)
    token = sm.CancellationToken()
    for value in (engine, session, chat, stream, token, engine.tokenizer):
        for refuse in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied; "):
                refuse(value)


def test_errors_are_one_family_with_codes_and_survive_pickle() -> None:
    bases = {
        "ModelNotFoundError": FileNotFoundError,
        "ModelFormatError": ValueError,
        "ModelLimitError": ValueError,
        "UnsupportedModelError": ValueError,
        "ModelIOError": OSError,
        "DownloadError": Exception,
        "MissingExtraError": ImportError,
        "MemoryBudgetError": MemoryError,
        "ContextLengthError": ValueError,
        "InvalidArgumentError": ValueError,
        "SessionBusyError": RuntimeError,
        "SessionClosedError": RuntimeError,
        "EngineClosedError": RuntimeError,
        "ForkedProcessError": RuntimeError,
        "QueueFullError": Exception,
        "BufferFullError": Exception,
        "CancelledError": Exception,
        "DeadlineError": TimeoutError,
        "TemplateError": Exception,
        "ThreadSafetyError": RuntimeError,
        "GrammarError": Exception,
        "InferenceError": Exception,
    }
    codes = set()
    for name, base in bases.items():
        kind = getattr(sm, name)
        assert issubclass(kind, base)
        assert issubclass(kind, sm.SmallMindError)
        error = pickle.loads(pickle.dumps(kind("the message", code="SOME_CODE")))
        assert type(error) is kind
        assert (str(error), error.code) == ("the message", "SOME_CODE")
        codes.add(kind.code)
    assert len(codes) == len(bases)
    assert {"CANCELLED_BY_CALLER", "CANCELLED_BY_TIMEOUT", "BACKPRESSURE_QUEUE_FULL"} <= codes


def test_names_of_later_parts_do_not_exist(engine: sm.Engine, smollm2: Path) -> None:
    session = engine.text_session()
    for owner, name in [
        (engine, "embed"),
        (engine, "embedding_session"),
        (sm, "rag"),
        (sm, "metrics"),
    ]:
        with pytest.raises(AttributeError):
            getattr(owner, name)
    for option in (
        "memory_limit",
        "memory_mode",
        "max_tensor_bytes",
        "logger",
        "metrics",
    ):
        with pytest.raises(TypeError, match=option):
            sm.Engine(smollm2, **{option: None})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cache_salt"):
        session.generate(PROMPT, cache_salt="x")  # type: ignore[call-arg]


def test_signatures_spell_every_sampling_keyword_with_its_default() -> None:
    expected = {
        "max_tokens": None,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "repeat_last_n": 64,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": None,
        "ignore_eos": False,
        "logit_bias": None,
        "logprobs": None,
        "seed": None,
    }
    for function in (
        sm.SamplingParams.__init__,
        sm.Engine.generate,
        sm.Engine.generate_many,
        sm.Engine.stream,
        sm.Engine.chat,
        sm.Engine.chat_stream,
        sm.TextSession.generate,
        sm.TextSession.stream,
        sm.TextSession.agenerate,
        sm.ChatSession.send,
        sm.ChatSession.stream,
    ):
        parameters = inspect.signature(function).parameters
        found = {name: parameters[name].default for name in expected}
        assert found == expected, function
        kinds = {parameters[name].kind for name in expected}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}, function


HEAVY = {"numpy", "jinja2", "asyncio", "tqdm", "typer", "rich", "subprocess", "markupsafe"}


def test_import_loads_nothing_of_others() -> None:
    script = f"import sys, smallmind\nprint(sorted({HEAVY} & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_numpy_comes_with_the_first_score(smollm2: Path) -> None:
    script = (
        "import sys, threading, smallmind as sm\n"
        "e = sm.Engine(sys.argv[1], n_threads=1)\n"
        "e.generate('Hi', max_tokens=1)\n"
        "first = 'numpy' in sys.modules\n"
        "found = []\n"
        "score = lambda: found.append(e.score([5, 6]).shape)\n"
        "threads = [threading.Thread(target=score) for _ in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "print(first, len(found), set(found) == {(2, e.info.n_vocab)})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(smollm2)], capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "8", "True"], done.stderr


def test_import_is_quick() -> None:
    script = (
        "import time, numpy\n"
        "start = time.thread_time()\n"  # NumPy's own threads still run
        "import smallmind\n"
        "print(time.thread_time() - start)\n"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout)
        for _ in range(9)
    ]
    assert min(times) < 0.025


def test_progress_comes_at_most_twenty_times_a_second(smollm2: Path, engine: sm.Engine) -> None:
    times: list[float] = []

    def progress(*_: object) -> None:
        times.append(time.monotonic())

    start = time.monotonic()
    sm.Engine(smollm2, progress=progress).close()
    # Long enough that the first and the last report of either do not count, on fast machines too.
    engine.score(range(4000), positions=[3999], progress=progress)
    assert len(times) <= 20 * (time.monotonic() - start) + 2


def test_progress_may_call_the_engine(engine: sm.Engine) -> None:
    # P-07: a callback that comes back in.
    texts: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert stage == "score"
        texts.append(engine.generate(PROMPT, max_tokens=1, temperature=0).text)

    engine.score(range(400), positions=[399], progress=progress)
    assert texts
    assert len(set(texts)) == 1


def test_the_version_is_there() -> None:
    assert sm.__version__.count(".") == 2
