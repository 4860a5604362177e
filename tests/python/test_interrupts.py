"""An exception out of a signal handler at every place of the package's code (P-01, A10).

CPython runs handlers when a function begins, after a call and when a loop goes round. Here an
exception is raised at each of these places in turn, which real signals hit once in many runs. After
a call it comes one instruction late: behind the end of a `try` whose last word the call is.
"""

from __future__ import annotations

import dis
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import assert_idle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from mix_runs import tiny_model

import smallmind as sm
from smallmind import _core
from smallmind import chat as chat_code
from smallmind import stream as stream_code

PACKAGE = frozenset(map(str, Path(sm.__file__).parent.glob("*.py")))
CHAT = frozenset((chat_code.__file__, stream_code.__file__))
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 2}


class Alarm(BaseException):
    pass


class AlarmAt:
    """A trace function that raises Alarm at one of the places where a handler could run."""

    def __init__(self, place: int, files: frozenset[str]) -> None:
        self._n_left = place
        self._files = files
        self._previous: dict[int, str] = {}  # by frame; to hold one would hold its variables
        self.was_reached = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in self._files or self.was_reached:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            self._visit()
        elif event == "opcode":
            if self._previous.get(id(frame), "").startswith(
                ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
            ):
                self._visit()
            self._previous[id(frame)] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        elif event == "return":
            self._previous.pop(id(frame), None)
        return self

    def _visit(self) -> None:
        self._n_left -= 1
        if self._n_left < 0:
            self.was_reached = True
            raise Alarm


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Engine]:
    with sm.Engine(tiny_model(tmp_path_factory.mktemp("tiny"), "llama"), n_threads=1) as engine:
        yield engine


def read_two_of_many(chat: sm.ChatSession) -> None:
    stream = chat.stream("c", temperature=0, ignore_eos=True, max_tokens=100)
    next(stream)
    next(stream)
    del stream


# What is called, and how many turns it adds.
CALLS: dict[str, tuple[Callable[[sm.ChatSession], Any], int]] = {
    "send": (lambda chat: chat.send("c", **GREEDY), 1),
    "stream": (lambda chat: list(chat.stream("c", **GREEDY)), 1),
    "result": (lambda chat: chat.stream("c", **GREEDY).result(), 1),
    "close": (lambda chat: chat.stream("c", **GREEDY).close(), 1),
    "dropped": (read_two_of_many, 1),
    "cancelled": (
        lambda chat: (chat.stream("c", **GREEDY), chat.cancel(), chat.send("c", **GREEDY)),
        2,
    ),
    "messages": (lambda chat: (chat.stream("c", **GREEDY), chat.messages), 1),
    "reset": (lambda chat: chat.reset(), 0),
}


@pytest.mark.parametrize("is_kept", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("name", CALLS)
def test_a_chat_goes_on_after_an_exception_at_any_place(
    tiny: sm.Engine, name: str, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """is_kept: so is the exception, and with it the variables of the functions that it left. Then
    a stream may still be open, which cancel() ends."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # what is raised in __del__
    call, n_turns = CALLS[name]
    tokenizer = tiny.tokenizer
    n_places = 0
    while True:
        alarm = AlarmAt(n_places, CHAT)
        held: Alarm | None = None
        chat = tiny.chat_session()
        chat.send("a", **GREEDY)
        before = chat.messages
        sys.settrace(alarm)
        try:
            call(chat)
        except Alarm as error:
            held = error if is_kept else None
        finally:
            sys.settrace(None)
        if held is not None:
            chat.cancel()
        # The conversation is whole, and so is the context of the next turn.
        messages = chat.messages
        if name == "reset":
            assert messages == [] or (alarm.was_reached and messages == before)
        else:
            asked = [m["content"] for m in messages if m["role"] == "user"]
            assert messages[: len(before)] == before
            assert asked == ["a"] + ["c"] * (len(asked) - 1)
            assert len(asked) - 1 <= n_turns if alarm.was_reached else len(asked) - 1 == n_turns
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        answer = chat.send("b", **GREEDY)
        question = {"role": "user", "content": "b"}
        assert chat.messages[-2:] == [question, answer.message]
        messages = chat.messages[:-2]  # a stream that was closed for this call is in it
        context = tiny.chat_session(messages=[*messages, question]).render(
            add_generation_prompt=True
        )
        ids = tokenizer.encode(context, add_special=False, parse_special=True)
        assert tokenizer.decode(chat.token_ids[:-2]) == tokenizer.decode(ids)
        if not alarm.was_reached:
            break
        n_places += 1
    assert n_places >= 10


def test_a_stream_that_an_exception_left_is_closed(tiny: sm.Engine) -> None:
    """Though its reader keeps it; the messages are as before the call."""
    chat = tiny.chat_session()
    n_closed = 0
    for place in range(60):
        stream = chat.stream("c", temperature=0, ignore_eos=True, max_tokens=100)
        next(stream)
        alarm = AlarmAt(place, CHAT)
        sys.settrace(alarm)
        try:
            next(stream)
        except Alarm:
            # Before its first instruction `__next__` can do nothing about it.
            if place > 0:
                n_closed += 1
                assert chat.messages == []
                assert chat.send("b", **GREEDY).finish_reason == "length"
        finally:
            sys.settrace(None)
        stream.close()
        chat.reset()
        if not alarm.was_reached:
            break
    assert n_closed >= 1


def test_a_turn_whose_stream_the_collector_drops_is_kept(tiny: sm.Engine) -> None:
    """It clears weak references before any `__del__` runs; here another one's calls the chat."""
    chat = tiny.chat_session()
    chat.send("a", **GREEDY)

    class First:
        def __del__(self) -> None:
            thread = threading.Thread(target=lambda: chat.send("x", **GREEDY))
            thread.start()
            thread.join()

    gc.collect()
    gc.disable()
    try:
        first: Any = First()
        first.me = first
        first.stream = chat.stream("dropped", temperature=0, ignore_eos=True, max_tokens=50)
        next(first.stream)
        del first
        gc.collect()
    finally:
        gc.enable()
    chat.send("z", **GREEDY)
    asked = [m["content"] for m in chat.messages if m["role"] == "user"]
    assert asked == ["a", "dropped", "x", "z"]


def test_a_stream_in_a_cycle_is_collected(tiny: sm.Engine) -> None:
    gc.collect()
    n_sessions = tiny.status().n_sessions
    stream: Any = tiny.stream("c", **GREEDY)
    stream.me = [stream]
    del stream
    gc.collect()
    assert_idle(tiny)
    assert tiny.status().n_sessions == n_sessions


def test_a_kept_busy_error_keeps_no_later_turns(tiny: sm.Engine) -> None:
    chat = tiny.chat_session()
    stream = chat.stream("c", **GREEDY)
    with pytest.raises(sm.SessionBusyError) as busy:
        chat.send("d", **GREEDY)
    stream.close()
    for _ in range(10):
        chat.send("e", **GREEDY)
    gc.collect()
    turns = [o for o in gc.get_objects() if type(o) is chat_code._Turn and o.messages]
    assert len([t for t in turns if t.messages[-1]["content"] == "e"]) <= 2
    assert "open stream" in str(busy.value)


ENGINE_CALLS: dict[str, Callable[[sm.Engine, sm.TextSession], Any]] = {
    "generate": lambda engine, _: engine.generate("c", **GREEDY),
    "stream": lambda engine, _: list(engine.stream("c", **GREEDY)),
    "many": lambda engine, _: engine.generate_many(["c", "d", "e"], **GREEDY),
    "chat": lambda engine, _: engine.chat([{"role": "user", "content": "c"}], **GREEDY),
    "session": lambda _, session: session.generate("c", **GREEDY),
    "session stream": lambda _, session: list(session.stream("c", **GREEDY)),
    "fork": lambda _, session: session.fork().generate("c", **GREEDY),
}


@pytest.mark.parametrize("call", ENGINE_CALLS.values(), ids=ENGINE_CALLS.keys())
def test_an_engine_goes_on_after_an_exception_at_any_place(
    tiny: sm.Engine,
    call: Callable[[sm.Engine, sm.TextSession], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    gc.collect()
    n_sessions = tiny.status().n_sessions
    n_places = 0
    while True:
        alarm = AlarmAt(n_places, PACKAGE)
        with tiny.text_session() as session:
            sys.settrace(alarm)
            try:
                call(tiny, session)
            except Alarm:
                pass
            finally:
                sys.settrace(None)
            before = session.token_ids
            result = session.generate("b", **GREEDY)
            expected = tiny.tokenizer.encode("b", add_special=not before)
            assert session.token_ids == [*before, *expected, *result.token_ids]
        assert_idle(tiny)
        assert tiny.status().n_sessions == n_sessions
        if not alarm.was_reached:
            break
        n_places += 1
    assert n_places >= 10


def test_an_object_without_its_value_is_refused() -> None:
    """What an exception before __init__ leaves, as `__new__` makes it."""
    classes = [value for value in vars(_core).values() if isinstance(value, type)]
    n_tried = 0
    for cls in classes:
        try:
            unmade = cls.__new__(cls)
        except TypeError:
            continue  # made by the core only
        methods = [name for name in vars(cls) if not name.startswith("_") or name == "__next__"]
        for name in methods:
            if isinstance(vars(cls)[name], staticmethod):
                continue
            with pytest.raises(TypeError, match=r"__init__\(\) was not called|arguments|iterator"):
                getattr(unmade, name)()
            n_tried += 1
    assert n_tried > 40
    with pytest.raises(TypeError, match=r"__init__\(\) was not called"):
        sm.CancellationToken.linked(sm.CancellationToken.__new__(sm.CancellationToken))


FIRST_SCORE = """
import signal, sys, smallmind as sm
class Alarm(BaseException): pass
is_armed = True
def interrupt(*_):
    if is_armed: raise Alarm
signal.signal(signal.SIGALRM, interrupt)
with sm.Engine(sys.argv[1], n_threads=1) as engine:
    try:
        signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
        engine.score([5])
    except Alarm:
        print("interrupted", end=" ")
    is_armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(engine.score([5]).shape == (1, engine.info.n_vocab))
"""


def test_a_first_score_can_be_interrupted(tmp_path: Path) -> None:
    """It imports NumPy, which cannot be imported again after an exception in the middle."""
    model = str(tiny_model(tmp_path, "llama"))
    outputs = []
    for i in range(16):
        command = [sys.executable, "-c", FIRST_SCORE, model, str(0.003 + 0.005 * i)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(done.stdout.strip())
    assert set(outputs) <= {"True", "interrupted True"}
    assert outputs.count("interrupted True") > 4
