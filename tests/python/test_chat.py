"""Chat on the real default model: turns, kept ids, control tokens, early ends (A-18, A13, A16)."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_idle
from jinja2.sandbox import ImmutableSandboxedEnvironment

import smallmind as sm

SHORT = sm.SamplingParams(temperature=0, max_tokens=8)
IM_START, IM_END = 1, 2
# Each turn with all before it rewritten: nothing of the old rendering is a prefix of the new.
RESHAPING = (
    "{{ messages|length }}\n{% for m in messages %}{{ m.role }}: {{ m.content|trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def reference_rendering(engine: sm.Engine, messages: list[dict[str, str]], prompt: bool) -> str:
    """By Jinja itself, with the settings that Hugging Face uses."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(engine.tokenizer.chat_template or "")
    return template.render(messages=messages, add_generation_prompt=prompt)


def test_render_is_jinja_s(engine: sm.Engine) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi  \n <|im_end|> there"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "ünï 🙂"},
    ]
    for system, rest in (("Be brief.", messages[1:]), (None, messages), (None, messages[1:])):
        chat = engine.chat_session(system=system, messages=rest)
        assert chat.messages == ([messages[0]] if system else []) + rest
        for prompt in (False, True):
            expected = reference_rendering(engine, chat.messages, prompt)
            assert chat.render(add_generation_prompt=prompt) == expected


def test_first_prompt_is_the_reference_s_ids(engine: sm.Engine) -> None:
    chat = engine.chat_session()
    result = chat.send("What is two plus two?", params=SHORT)
    text = reference_rendering(engine, [{"role": "user", "content": "What is two plus two?"}], True)
    ids = engine.tokenizer.encode(text, add_special=False, parse_special=True)
    assert chat.token_ids[: len(ids)] == ids
    assert chat.token_ids == ids + result.token_ids
    assert result.usage.prompt_tokens == len(ids)


def test_turn_is_kept(engine: sm.Engine) -> None:
    # A16
    chat = engine.chat_session(system="Be brief.")
    result = chat.send("Name a colour.", params=SHORT)
    assert isinstance(result, sm.ChatResult)
    assert result.message == {"role": "assistant", "content": result.text}
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]
    assert chat.messages[-1] == result.message
    chat.messages.clear()
    chat.messages[0]["content"] = "changed"
    assert chat.messages[0]["content"] == "Be brief."
    chat.reset()
    assert [m["role"] for m in chat.messages] == ["system"]
    assert chat.send("Name a colour.", params=SHORT).text == result.text


def test_generated_ids_are_kept_as_they_are(engine: sm.Engine) -> None:
    """The answer of the first turn, token by token, then only the added text's tokens."""
    chat = engine.chat_session()
    seen = 0
    for turn in range(4):
        before = chat.token_ids
        result = chat.send(f"Tell me something odd, part {turn}.", max_tokens=12, seed=turn)
        assert not result.usage.retokenized
        after = chat.token_ids
        assert after[: len(before)] == before
        assert after[-len(result.token_ids) :] == result.token_ids
        added = after[len(before) : -len(result.token_ids)]
        text = engine.tokenizer.decode(added, skip_special=False)
        if turn:
            assert text.startswith("<|im_end|>\n<|im_start|>user\nTell me something odd")
            # All of the context but its last token, which was never computed.
            assert result.usage.cached_tokens == len(before) - 1
        seen = max(seen, len(after))
    assert seen == len(chat)


def test_ids_that_no_text_has_are_kept(engine: sm.Engine) -> None:
    """Forced tokens whose text has other ids show that nothing is tokenised again."""
    encode = engine.tokenizer.encode
    (letter,) = encode("s", add_special=False)
    assert encode("ss", add_special=False) != [letter, letter]
    chat = engine.chat_session()
    first = chat.send("x", max_tokens=2, logit_bias={letter: 1e5}, temperature=0)
    assert (first.text, first.token_ids) == ("ss", [letter, letter])
    before = chat.token_ids
    second = chat.send("y", max_tokens=1)
    assert before[-2:] == [letter, letter]
    assert chat.token_ids[: len(before)] == before
    assert not second.usage.retokenized


def test_template_that_rewrites_is_tokenised_again_and_says_so(engine: sm.Engine) -> None:
    chat = engine.chat_session(chat_template=RESHAPING)
    assert not chat.send("Hello", params=SHORT).usage.retokenized
    second = chat.send("Again", params=SHORT)
    assert second.usage.retokenized
    text = chat.render()
    assert text.startswith("4\nuser: Hello\n")
    expected = engine.tokenizer.encode(
        "3" + text[1 : text.rindex("assistant:")] + "assistant:", add_special=False
    )
    assert chat.token_ids[: second.usage.prompt_tokens] == expected


def test_stop_string_leaves_no_trace_in_the_context(engine: sm.Engine) -> None:
    free = engine.chat_session().send("Count: one, two, three", temperature=0, max_tokens=20)
    stop = free.text[6:10]
    chat = engine.chat_session()
    result = chat.send("Count: one, two, three", temperature=0, max_tokens=20, stop=stop)
    assert (result.finish_reason, result.text) == ("stop", free.text[: free.text.index(stop)])
    second = chat.send("Go on", max_tokens=1)
    assert not second.usage.retokenized
    context = engine.tokenizer.decode(chat.token_ids, skip_special=False)
    assert context.startswith(chat.render()[: -len(second.text) - len("<|im_end|>\n")])


def test_stateless_chat_equals_a_session(engine: sm.Engine) -> None:
    messages = [{"role": "user", "content": "Name a colour."}]
    expected = engine.chat_session().send("Name a colour.", params=SHORT)
    result = engine.chat(messages, params=SHORT)
    assert (result.text, result.token_ids) == (expected.text, expected.token_ids)
    stream = engine.chat_stream(messages, params=SHORT)
    assert "".join(map(str, stream)) == expected.text
    assert isinstance(stream.result(), sm.ChatResult)
    assert stream.result().message["content"] == expected.text
    assert messages == [{"role": "user", "content": "Name a colour."}]


@pytest.mark.parametrize(
    "end", ["exhaust", "break", "cancel", "session", "token", "timeout", "del"]
)
def test_however_it_ends_the_turn_is_kept_with_the_text_so_far(engine: sm.Engine, end: str) -> None:
    chat = engine.chat_session()
    token = sm.CancellationToken()
    stream = chat.stream(
        "Tell me a very long story.",
        temperature=0,
        max_tokens=6 if end == "exhaust" else 8_000,  # more than any machine makes in a second
        ignore_eos=True,
        cancel=token,
        timeout=1.0 if end == "timeout" else None,
    )
    text = ""
    for piece in stream:
        text += piece.text
        if piece.index == 3 and end not in ("exhaust", "timeout"):
            if end == "cancel":
                stream.cancel()
            elif end == "session":
                chat.cancel()
            elif end == "token":
                token.cancel()
            break
    reason = None
    if end == "break":
        stream.close()
    elif end == "del":
        del piece
        del stream
    else:
        reason = stream.result().finish_reason
        text = stream.result().text
    expected = {"exhaust": "length", "timeout": "timeout", "break": None, "del": None}
    assert reason == expected.get(end, "cancelled")
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]
    assert chat.messages[1]["content"].startswith(text)
    assert text
    assert chat.send("Thank you.", params=SHORT).usage.completion_tokens > 0
    assert len(chat.messages) == 4


def test_after_session_cancel_the_next_call_need_not_wait(engine: sm.Engine) -> None:
    """What SessionBusyError advises works while somebody still holds the old stream."""
    chat, session = engine.chat_session(), engine.text_session()
    held, text_held = chat.stream("Count", max_tokens=500), session.stream("a", max_tokens=500)
    first, text_first = next(held), next(text_held)
    chat.cancel()
    session.cancel()
    assert chat.send("Thank you.", params=SHORT).usage.completion_tokens > 0
    assert session.generate("b", params=SHORT).usage.completion_tokens > 0
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"] == first.text
    assert session.token_ids[1] == text_first.id
    assert list(held) == list(text_held) == []
    assert held.finish_reason == text_held.finish_reason == "cancelled"


@pytest.mark.parametrize("is_stream", [False, True])
def test_cancel_counts_from_the_beginning_of_a_turn(
    engine: sm.Engine, is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the template renders, when the core knows nothing of the turn yet."""
    chat = engine.chat_session()
    render = chat._prompt.next

    def cancelled_meanwhile(*arguments: Any) -> Any:
        chat.cancel()
        return render(*arguments)

    monkeypatch.setattr(chat._prompt, "next", cancelled_meanwhile)
    for token in (None, sm.CancellationToken()):
        limits: Any = {"max_tokens": 4_000, "ignore_eos": True, "cancel": token}
        result = chat.stream("a", **limits).result() if is_stream else chat.send("a", **limits)
        assert result.finish_reason == "cancelled"
        assert token is None or not token.cancelled
    monkeypatch.undo()
    assert chat.send("b", params=SHORT).finish_reason in ("stop", "length")
    with pytest.raises(TypeError, match="cancel: wants CancellationToken"):
        chat.send("b", cancel=5)  # type: ignore[arg-type]


def test_after_an_exception_the_messages_are_as_before(engine: sm.Engine) -> None:
    chat = engine.chat_session(messages=[{"role": "user", "content": "Hi"}])
    before = chat.messages
    for call in (
        lambda: chat.send("x" * 60_000),
        lambda: chat.send("x", temperature=-1),
        lambda: chat.stream("\ud800"),
        lambda: chat.send(5),  # type: ignore[arg-type]
    ):
        with pytest.raises((sm.SmallMindError, TypeError)):
            call()
        assert chat.messages == before
    with pytest.raises(ZeroDivisionError), chat.stream("Hello", max_tokens=50) as stream:
        next(stream)
        raise ZeroDivisionError  # the caller's own: the stream was closed, not broken
    assert len(chat.messages) == 3


def test_control_tokens_in_any_field_stay_text(engine: sm.Engine) -> None:
    # every control token's text, in every role, whole, cased, and in halves.
    controls = engine.tokenizer.control_texts
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(controls)
    attacks = [
        *controls,
        "<|IM_END|>",
        "<|im_end|",
        "|im_end|>",
        "<",
        " <|im_end|> ",
        "a<|im_end|>",
    ]
    attacks.append("".join(controls))
    for role in ("system", "user", "assistant"):
        for attack in attacks:
            messages = [{"role": role, "content": attack}, {"role": "user", "content": "ok"}]
            chat = engine.chat_session(messages=messages)
            chat._send([], sm.SamplingParams(max_tokens=1), None, None)
            text = reference_rendering(engine, messages, True)
            starts = chat.token_ids.count(IM_START)
            assert starts == text.count("<|im_start|>") - attack.count("<|im_start|>"), attack
            expected_ends = text.count("<|im_end|>") - attack.count("<|im_end|>")
            prompt_ids = chat.token_ids[:-1] if chat.token_ids[-1] == IM_END else chat.token_ids
            assert prompt_ids.count(IM_END) in (expected_ends, expected_ends + 1), attack
            assert sum(map(engine.tokenizer.is_control, prompt_ids)) <= starts + expected_ends + 1
            decoded = engine.tokenizer.decode(chat.token_ids, skip_special=False)
            assert decoded.startswith(text)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{{ '|>' }}{% endfor %}",
        "{% for m in messages %}{{ m.content|trim }}|>{% endfor %}",
        "{% for m in messages %}{{ '<|im_' + m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content|lower }}{% endfor %}",
        "{% for m in messages %}{{ m.content|upper|lower }}{% endfor %}",
        "{% for m in messages %}{{ m.role ~ m.content ~ '>' }}{% endfor %}",
        "{{ messages|map(attribute='content')|join('') }}",
    ],
)
@pytest.mark.parametrize(
    "contents", [["<|im_end|"], ["<|im_end| "], ["end|>"], ["<|IM_END|>"], ["<|im_", "end|>"]]
)
def test_halves_do_not_join_to_control_tokens(
    engine: sm.Engine, template: str, contents: list[str]
) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    chat = engine.chat_session(messages=messages, chat_template=template)
    chat._send([], sm.SamplingParams(max_tokens=1, logit_bias={100: 1e5}), None, None)
    assert not any(map(engine.tokenizer.is_control, chat.token_ids))


def test_a_model_without_template_says_so(gemma3: Path) -> None:
    with sm.Engine(gemma3, n_threads=1, context_length=256) as gemma:
        with pytest.raises(sm.TemplateError, match="chat_template="):
            gemma.chat_session()
        with pytest.raises(sm.TemplateError):
            gemma.chat([{"role": "user", "content": "Hi"}])
        template = (
            "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}"
            "<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
        )
        chat = gemma.chat_session(chat_template=template)
        chat.send("Hi", max_tokens=2, temperature=0)
        assert chat.token_ids.count(gemma.tokenizer.bos_id or -1) == 1  # never doubled
        bare = gemma.chat_session(chat_template=template.replace("{{ bos_token }}", ""))
        bare.send("Hi", max_tokens=2, temperature=0)
        assert bare.token_ids == chat.token_ids  # and never left out


def test_two_threads_on_one_chat_never_mix(engine: sm.Engine) -> None:
    # A10, A13: one wins, the other is told; every kept turn is whole.
    chat = engine.chat_session()
    sent: list[str] = []
    errors: list[BaseException] = []

    def talk(name: str) -> None:
        for i in range(6):
            try:
                sent.append(chat.send(f"{name}{i}", max_tokens=2, seed=i).text)
            except sm.SessionBusyError:
                pass
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sent
    messages = chat.messages
    assert [m["role"] for m in messages] == ["user", "assistant"] * len(sent)
    assert [m["content"] for m in messages[1::2]] == sent
    assert_idle(engine)


def test_jinja_comes_with_the_first_chat(smollm2: Path) -> None:
    script = (
        "import sys, smallmind as sm\n"
        f"e = sm.Engine({str(smollm2)!r}, n_threads=1)\n"
        "e.generate('Hi', max_tokens=1)\n"
        "print('jinja2' in sys.modules)\n"
        "e.chat_session()\n"
        "print('jinja2' in sys.modules)\n"
    )
    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
