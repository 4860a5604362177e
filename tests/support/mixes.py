"""Random mixes of requests, and the solo run that each of their answers must equal.

A mix is 1 to 16 scripts that run at once on one engine, each in a thread of its own: text sessions
and chats of several turns, stateless doors, batches and forks; random lengths, samplers, shared
prefixes, salts, joins, slow readers, and cancels at random tokens. `play` runs one and returns a
Call for every answer. `Solo` computes the same context and sampling alone, without a cache, with
one thread. Everything but the moment of a cancel follows from the seed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import smallmind as sm

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
N_TURNS = 3
READERS = ("generate", "stream", "slow")
# How a call ends: mostly by itself; else at a token, or at some moment.
ENDS = ("", "", "cancel", "token", "close", "timer", "timeout")


@dataclass(frozen=True)
class World:
    """What the mixes of one model draw from. Bases are the prefixes that scripts share."""

    first_id: int
    last_id: int
    base_tokens: int = 260
    own_tokens: int = 90
    max_tokens: int = 20
    context_length: int = 640
    latest_join_s: float = 0.01

    def base(self, number: int) -> list[int]:
        order = random.Random(f"base {number}")
        return [order.randint(self.first_id, self.last_id) for _ in range(self.base_tokens)]


# The windows are 48 and 512 tokens: both worlds have prompts beyond.
TINY = World(first_id=10, last_id=250)
REAL = World(
    first_id=1_000, last_id=30_000, base_tokens=660, max_tokens=16, context_length=1_280,
    latest_join_s=0.3,
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    ids: list[int]
    sampling: dict[str, Any]
    reader: str
    end: str
    after: int  # tokens, for an end at a token
    within_s: float  # for an end at some moment


@dataclass(frozen=True)
class Script:
    kind: str  # text, chat, door, many
    join_s: float
    turns: list[Turn]
    fork_before: int  # the turn before which a branch leaves; 0: none
    options: dict[str, Any]  # salt and key


@dataclass
class Call:
    """One answer. An early end has what was received."""

    cache_type: str
    context: list[int]
    sampling: dict[str, Any]
    ids: list[int]
    text: str
    logprobs: list[Any]
    finish: str
    kind: str = ""


@dataclass
class Played:
    calls: list[Call] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    n_forks: int = 0


def _sampling(order: random.Random, world: World) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "max_tokens": order.randint(1, world.max_tokens),
        "temperature": order.choice((0.0, 0.0, 0.7, 1.3)),
        "seed": order.randrange(1 << 64),
        "ignore_eos": order.random() < 0.7,
    }
    extras: dict[str, Callable[[], Any]] = {
        "top_k": lambda: order.choice((0, 1, 5, 100)),
        "top_p": lambda: order.choice((0.3, 0.9, 1.0)),
        "min_p": lambda: order.choice((0.0, 0.2)),
        "repeat_penalty": lambda: 1.3,
        "presence_penalty": lambda: 0.5,
        "frequency_penalty": lambda: -0.4,
        "repeat_last_n": lambda: order.choice((0, 3, 200)),
        "logit_bias": lambda: {order.randint(world.first_id, world.last_id): 4.0},
        "logprobs": lambda: order.choice((0, 3)),
        "stop": lambda: order.choice(("e", ["th", "qu"], ["zzz", "a"])),
    }
    for name in order.sample(sorted(extras), order.randint(0, 3)):
        chosen[name] = extras[name]()
    return chosen


def _prompt(order: random.Random, world: World) -> list[int]:
    shared: list[int] = []
    if order.random() < 0.8:
        base = world.base(order.randrange(3))
        shared = base[: order.choice((32, 64, 65, world.base_tokens, order.randint(1, 99)))]
    own = order.randint(1, world.own_tokens)
    return shared + [order.randint(world.first_id, world.last_id) for _ in range(own)]


def _script(order: random.Random, world: World) -> Script:
    kind = order.choice(("text", "text", "text", "chat", "door", "many"))
    turns = []
    for i in range(order.randint(1, N_TURNS) if kind in ("text", "chat") else 1):
        few = [order.randint(world.first_id, world.last_id) for _ in range(order.randint(1, 40))]
        sampling = _sampling(order, world)
        turns.append(
            Turn(
                ids=_prompt(order, world) if i == 0 else few,
                sampling=sampling,
                reader=order.choice(READERS),
                end=order.choice(ENDS),
                after=order.randint(1, sampling["max_tokens"]),
                within_s=order.uniform(0.0005, world.latest_join_s / 2),
            )
        )
    options: dict[str, Any] = {}
    if order.random() < 0.3:
        options["cache_salt"] = order.choice(("one tenant", "another"))
    if order.random() < 0.3:
        options["fairness_key"] = order.choice(("one", "two"))
    forks = kind == "text" and len(turns) > 1 and order.random() < 0.5
    return Script(
        kind=kind,
        join_s=order.uniform(0, world.latest_join_s),
        turns=turns,
        fork_before=order.randint(1, len(turns) - 1) if forks else 0,
        options=options,
    )


def make_mix(seed: int, world: World) -> list[Script]:
    order = random.Random(f"mix {seed}")
    return [_script(order, world) for _ in range(order.choice((1, 2, 3, 4, 8, 16)))]


def engine_options(seed: int, world: World, kv_bytes_per_token: int) -> dict[str, Any]:
    """One of four: either cache type, with much room, or so little that pages are evicted."""
    tight = 2 * world.context_length * kv_bytes_per_token
    return [
        {"cache_type": "bf16", "max_buffered_tokens": 3},
        {"cache_type": "bf16", "kv_limit": tight},
        {"cache_type": "q8_0", "kv_limit": tight},
        {"cache_type": "q8_0", "max_kv_tokens": world.context_length},
    ][seed % 4]


class _Player:
    def __init__(self, engine: sm.Engine, cache_type: str) -> None:
        self._engine = engine
        self._cache_type = cache_type
        self._lock = threading.Lock()
        self._branches: list[threading.Thread] = []
        self.played = Played()

    def run(self, scripts: Sequence[Script]) -> Played:
        threads = [self._thread(self._play, script) for script in scripts]
        for thread in threads:
            thread.join()
        while self._branches:
            self._branches.pop().join()
        return self.played

    def _thread(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*args)
            except BaseException as error:
                self.played.errors.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def _play(self, script: Script) -> None:
        time.sleep(script.join_s)
        turn = script.turns[0]
        if script.kind == "text":
            with self._engine.text_session(**script.options) as session:
                self._text_turns(session, script, 0)
        elif script.kind == "chat":
            self._chat(script)
        elif script.kind == "door":
            stream = self._engine.stream(turn.ids, **self._keywords(turn), **script.options)
            self._keep(script.kind, turn.ids, turn, *self._read(stream, turn, stream.cancel))
        else:
            prompts = [turn.ids[i:] for i in range(min(4, len(turn.ids)))]
            results = self._engine.generate_many(prompts, **turn.sampling, **script.options)
            for prompt, result in zip(prompts, results, strict=True):
                self._keep(script.kind, prompt, turn, result, result.token_ids)

    def _text_turns(self, session: sm.TextSession, script: Script, first: int) -> None:
        for number, turn in enumerate(script.turns[first:], start=first):
            if number == script.fork_before and first == 0 and number > 0:
                self.played.n_forks += 1
                self._branches.append(self._thread(self._branch, session.fork(), script, number))
            context = session.token_ids + turn.ids
            if turn.reader == "generate":
                result = self._generate(session.generate, session.cancel, turn)
                self._keep("text", context, turn, result, result.token_ids)
            else:
                stream = session.stream(turn.ids, **self._keywords(turn))
                self._keep("text", context, turn, *self._read(stream, turn, session.cancel))

    def _branch(self, session: sm.TextSession, script: Script, first: int) -> None:
        with session:
            self._text_turns(session, script, first)

    def _chat(self, script: Script) -> None:
        letters = "abc defghi jklmnop"
        with self._engine.chat_session(
            system="Be brief.", chat_template=CHAT_TEMPLATE, **script.options
        ) as chat:
            for turn in script.turns:
                text = "".join(letters[i % len(letters)] for i in turn.ids)
                if turn.reader == "generate":
                    result = self._generate(chat.send, chat.cancel, turn, text)
                    ids = result.token_ids
                else:
                    stream = chat.stream(text, **self._keywords(turn))
                    result, ids = self._read(stream, turn, chat.cancel)
                self._keep("chat", chat.token_ids[: result.usage.prompt_tokens], turn, result, ids)

    def _keywords(self, turn: Turn) -> dict[str, Any]:
        timeout = {"timeout": turn.within_s} if turn.end == "timeout" else {}
        return {**turn.sampling, **timeout}

    def _generate(
        self, call: Callable[..., Any], cancel: Callable[[], None], turn: Turn, text: str = ""
    ) -> Any:
        token = sm.CancellationToken()
        ways = {"cancel": cancel, "token": token.cancel, "timer": token.cancel}
        timer = threading.Timer(turn.within_s, ways.get(turn.end, lambda: None))
        if turn.end in ways:
            timer.start()
        try:
            return call(text or turn.ids, cancel=token, **self._keywords(turn))
        finally:
            timer.cancel()

    def _read(self, stream: Any, turn: Turn, cancel: Callable[[], None]) -> tuple[Any, list[int]]:
        """The result, and the ids that came one by one."""
        timer = threading.Timer(turn.within_s, stream.cancel)
        if turn.end == "timer":
            timer.start()
        ids: list[int] = []
        for token in stream:
            ids.append(token.id)
            if turn.reader == "slow":
                time.sleep(0.002)
            if len(ids) == turn.after:
                if turn.end == "close":  # the engine may have been at its end already
                    stream.close()
                    return replace(stream.result(), finish_reason="cancelled"), ids
                if turn.end in ("cancel", "token"):
                    cancel()
        timer.cancel()
        return stream.result(), ids

    def _keep(self, kind: str, context: list[int], turn: Turn, result: Any, ids: list[int]) -> None:
        if ids != result.token_ids:
            raise AssertionError(f"the stream gave {ids}, its result {result.token_ids}")
        if result.usage.prompt_tokens != len(context):
            raise AssertionError(f"usage {result.usage} for a context of {len(context)}")
        logprobs = [
            [p.id, p.logprob, [list(pair) for pair in p.top]] for p in result.logprobs or ()
        ]
        call = Call(
            self._cache_type, context, {**turn.sampling, "seed": result.seed}, result.token_ids,
            result.text, logprobs, result.finish_reason, kind,
        )  # fmt: skip
        with self._lock:
            self.played.calls.append(call)


def play(engine: sm.Engine, scripts: Sequence[Script], cache_type: str) -> Played:
    """Runs the scripts at once; returns when the last thread has ended."""
    return _Player(engine, cache_type).run(scripts)


class Solo:
    """Each context alone, on an engine that keeps nothing; equal questions are asked once.

    `fresh`: an engine of its own for each. A context manager.
    """

    def __init__(self, model: Path, context_length: int, *, fresh: bool) -> None:
        self._model = model
        self._options = {
            "n_threads": 1, "enable_kv_cache": False, "context_length": context_length,
        }  # fmt: skip
        self._fresh = fresh
        self._engines: dict[str, sm.Engine] = {}
        self._answers: dict[str, Any] = {}

    def __enter__(self) -> Solo:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.close()

    def answer(self, call: Call) -> Any:
        key = repr((call.cache_type, call.context, sorted(call.sampling.items())))
        if key not in self._answers:
            engine = self._engines.get(call.cache_type)
            if engine is None or self._fresh:
                if engine is not None:
                    engine.close()
                engine = sm.Engine(self._model, cache_type=call.cache_type, **self._options)
                self._engines[call.cache_type] = engine
            self._answers[key] = engine.generate(call.context, **call.sampling)
        return self._answers[key]

    def difference(self, call: Call) -> str | None:
        """None when it is the same; after an early end, when it is a prefix."""
        alone = self.answer(call)
        n = len(call.ids)
        early = call.finish in ("cancelled", "timeout")
        logprobs = [[p.id, p.logprob, [list(pair) for pair in p.top]] for p in alone.logprobs or ()]
        same = alone.token_ids[:n] == call.ids and logprobs[: len(call.logprobs)] == call.logprobs
        if early:
            # Half a character, or what may begin a stop string, is not with the reader yet.
            whole = self._engines[call.cache_type].tokenizer.decode(call.ids)
            same = same and whole.startswith(call.text)
        else:
            same = same and (alone.text, alone.finish_reason) == (call.text, call.finish)
            same = same and len(alone.token_ids) == n and len(logprobs) == len(call.logprobs)
        return None if same else f"alone {alone.token_ids} {alone.finish_reason}, in {asdict(call)}"
