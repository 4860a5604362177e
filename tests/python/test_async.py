"""asyncio: streams without threads, cancelled tasks, loops that come and go (A36, C29, P-13)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_idle

import smallmind as sm

PROMPT = "The capital of France is"


def test_stream_gives_the_same_tokens_as_iteration(engine: sm.Engine) -> None:
    expected = list(engine.stream(PROMPT, seed=5, max_tokens=20))

    async def read() -> list[sm.Token]:
        async with engine.stream(PROMPT, seed=5, max_tokens=20) as stream:
            return [token async for token in stream]

    assert asyncio.run(read()) == expected


def test_agenerate_gives_the_same_result(engine: sm.Engine) -> None:
    expected = engine.generate(PROMPT, seed=5, max_tokens=20)

    async def call() -> sm.GenerationResult:
        with engine.text_session() as session:
            return await session.agenerate(PROMPT, seed=5, max_tokens=20)

    result = asyncio.run(call())
    assert (result.token_ids, result.text) == (expected.token_ids, expected.text)
    with pytest.raises(TypeError, match="temperature"):
        engine.text_session().agenerate(PROMPT, temp=1)  # type: ignore[call-arg]


def test_chat_streams_asynchronously(engine: sm.Engine) -> None:
    chat = engine.chat_session()

    async def talk() -> str:
        return "".join([token.text async for token in chat.stream("Hi", max_tokens=6, seed=1)])

    text = asyncio.run(talk())
    assert chat.messages[-1] == {"role": "assistant", "content": text}
    assert chat.send("And?", max_tokens=1).usage.completion_tokens <= 1


async def heartbeat(gaps: list[float], stop: asyncio.Event) -> None:
    last = time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        gaps.append(now - last)
        last = now


def test_two_hundred_streams_beside_a_heartbeat(engine: sm.Engine) -> None:
    n_threads = threading.active_count()
    alone = [t.id for t in engine.stream("Stream 7 says", seed=7, max_tokens=4)]

    async def one(i: int) -> list[int]:
        stream = engine.stream(f"Stream {i} says", seed=i, max_tokens=4)
        return [token.id async for token in stream]

    async def main() -> tuple[list[list[int]], list[float]]:
        gaps: list[float] = []
        stop = asyncio.Event()
        beat = asyncio.create_task(heartbeat(gaps, stop))
        tasks = [asyncio.create_task(one(i)) for i in range(200)]
        await asyncio.sleep(0.05)
        assert threading.active_count() == n_threads
        outputs = await asyncio.gather(*tasks)
        stop.set()
        await beat
        return outputs, gaps

    outputs, gaps = asyncio.run(main())
    assert all(1 <= len(ids) <= 4 for ids in outputs)
    assert outputs[7] == alone
    gaps.sort()
    assert gaps[len(gaps) // 2] < 0.020
    assert gaps[int(len(gaps) * 0.95)] < 0.040
    assert gaps[-1] < 0.5  # one may be the machine's
    assert_idle(engine)


async def seconds_to_cancel(task: asyncio.Future[Any]) -> float:
    """From cancelling the task to its end."""
    assert not task.done()
    start = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - start


def run_and_cancel(work: Callable[[], Awaitable[Any]], after: float) -> float:
    async def main() -> float:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(after)
        return await seconds_to_cancel(task)

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["stream", "agenerate", "prefill", "chat"])
def test_cancelled_task_ends_the_generation(engine: sm.Engine, kind: str) -> None:
    session, chat = engine.text_session(), engine.chat_session()
    long_prompt = [5] * 4_000

    async def read(stream: sm.TokenStream) -> None:
        async for _ in stream:
            pass

    work: dict[str, Callable[[], Awaitable[Any]]] = {
        "stream": lambda: read(session.stream(PROMPT, max_tokens=2_000, ignore_eos=True)),
        "agenerate": lambda: session.agenerate(PROMPT, max_tokens=2_000, ignore_eos=True),
        "prefill": lambda: session.agenerate(long_prompt, max_tokens=2),
        "chat": lambda: read(chat.stream("Count", max_tokens=2_000, ignore_eos=True)),
    }
    assert run_and_cancel(work[kind], 0.15) < 0.1
    if kind == "chat":
        assert chat.messages == []  # an exception, so the turn never was
        assert chat.send("Hi", max_tokens=1).usage.completion_tokens <= 1
    else:
        assert len(session) >= (4_000 if kind == "prefill" else 5)
        session.reset()
        assert session.generate("a", max_tokens=1).usage.completion_tokens <= 1
    session.close()
    chat.close()
    assert_idle(engine)


def test_asyncio_timeout_and_our_timeout_differ(engine: sm.Engine) -> None:
    # A28, B26
    async def main() -> None:
        session = engine.text_session()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                session.agenerate(PROMPT, max_tokens=2_000, ignore_eos=True), 0.1
            )
        result = await session.agenerate(" b", max_tokens=2_000, ignore_eos=True, timeout=0.1)
        assert (result.finish_reason, result.code) == ("timeout", "CANCELLED_BY_TIMEOUT")
        with pytest.raises(sm.DeadlineError):
            result.check()

    asyncio.run(main())


def test_aload(smollm2: Path) -> None:
    # B25
    seen: list[tuple[Any, ...]] = []
    threads: set[str] = set()

    def progress(*call: Any) -> None:
        seen.append(call)
        threads.add(threading.current_thread().name)

    async def main() -> None:
        engine = await sm.Engine.aload(smollm2, n_threads=1, progress=progress)
        assert engine.info.n_threads == 1
        engine.close()
        token = sm.CancellationToken()
        token.cancel()
        with pytest.raises(sm.CancelledError):
            await sm.Engine.aload(smollm2, cancel=token)
        with pytest.raises(sm.ModelNotFoundError):
            await sm.Engine.aload(str(smollm2) + ".none")

        def refuse(*_: Any) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await sm.Engine.aload(smollm2, progress=refuse)

    asyncio.run(main())
    assert seen
    assert threads == {threading.current_thread().name}

    async def cancel_once_begun() -> float:
        begun = asyncio.Event()
        load = sm.Engine.aload(smollm2, progress=lambda *_: begun.set())
        task = asyncio.ensure_future(load)
        await begun.wait()
        return await seconds_to_cancel(task)

    assert asyncio.run(cancel_once_begun()) < 0.1


def test_a_stream_moves_between_loops_and_threads(engine: sm.Engine) -> None:
    stream = engine.stream(PROMPT, max_tokens=8, ignore_eos=True, seed=3)
    expected = engine.generate(PROMPT, max_tokens=8, ignore_eos=True, seed=3).token_ids

    async def take(n: int) -> list[int]:
        return [(await stream.__anext__()).id for _ in range(n)]

    ids = asyncio.run(take(2))
    ids += asyncio.run(take(2))
    ids.append(next(stream).id)
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.extend(asyncio.run(take(2))))
    thread.start()
    thread.join()
    assert [*ids, *other, *(token.id for token in stream)] == expected


def test_loops_close_with_streams_open(engine: sm.Engine) -> None:
    # P-13: nothing is left behind in the loop, and the orphan's work ends.
    async def take(stream: sm.TokenStream) -> None:
        assert (await stream.__anext__()).index == 0

    for _ in range(3):
        loop = asyncio.new_event_loop()
        orphan = engine.stream(PROMPT, max_tokens=2_000, ignore_eos=True)
        loop.run_until_complete(take(orphan))
        loop.close()
    assert next(orphan).index == 1
    del orphan
    gc.collect()
    assert_idle(engine)


def test_one_stream_has_one_waiting_task(engine: sm.Engine) -> None:
    async def main() -> None:
        stream = engine.stream([5] * 2_000, max_tokens=2)
        first = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0.01)
        with pytest.raises(sm.SessionBusyError):
            await stream.__anext__()
        first.cancel()

    asyncio.run(main())


def test_a_blocking_call_works_inside_a_running_loop(engine: sm.Engine) -> None:
    # C29, C31
    async def main() -> int:
        inside = engine.generate(PROMPT, max_tokens=2).usage.completion_tokens
        thread = await asyncio.to_thread(engine.generate, PROMPT, max_tokens=2)
        return inside + thread.usage.completion_tokens

    assert asyncio.run(main()) == 4


def test_early_end_inside_async_with(engine: sm.Engine) -> None:
    async def main() -> sm.TokenStream:
        async with engine.stream(PROMPT, max_tokens=500, ignore_eos=True) as stream:
            async for token in stream:
                if token.index == 2:
                    break
        return stream

    stream = asyncio.run(main())
    assert stream.finish_reason == "cancelled"
    assert len(stream.result().token_ids) >= 3
    assert_idle(engine)


class CancelledAt:
    """Awaits a coroutine whose n-th wait raises CancelledError, as a cancelled task's does."""

    def __init__(self, work: Coroutine[Any, Any, Any], n: int) -> None:
        self._work = work
        self._n = n
        self.was_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        steps = self._work.__await__()
        for i in itertools.count():
            try:
                waits_for = next(steps)
                if i == self._n:
                    self.was_cancelled = True
                    steps.throw(asyncio.CancelledError())
                    raise AssertionError("the cancellation was swallowed")
            except StopIteration as end:
                return end.value
            yield waits_for


@pytest.mark.parametrize("kind", ["stream", "stream-with", "agenerate", "chat", "aload"])
def test_a_cancel_at_every_await_leaves_no_work_behind(
    engine: sm.Engine, smollm2: Path, kind: str
) -> None:
    # P-13, A36
    session, chat = engine.text_session(), engine.chat_session()
    options: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "temperature": 0}

    async def read(stream: sm.TokenStream) -> int:
        return len([token async for token in stream])

    async def read_with() -> int:
        async with session.stream(PROMPT, **options) as stream:
            return await read(stream)

    async def load() -> int:
        (await sm.Engine.aload(smollm2, n_threads=1)).close()
        return 6

    async def agenerate() -> int:
        return len((await session.agenerate(PROMPT, **options)).token_ids)

    async def at(n: int) -> bool:
        work = {
            "stream": lambda: read(session.stream(PROMPT, **options)),
            "stream-with": read_with,
            "agenerate": agenerate,
            "chat": lambda: read(chat.stream("Hi", **options)),
            "aload": load,
        }[kind]()
        cancelling = CancelledAt(work, n)
        if n == 99:
            assert await cancelling == 6
        else:
            with contextlib.suppress(asyncio.CancelledError):
                await cancelling
        return cancelling.was_cancelled

    n_cancelled = 0
    for n in (*range(8), 99):
        n_cancelled += asyncio.run(at(n))
        session.reset()
        chat.reset()
    assert n_cancelled >= (1 if kind in ("agenerate", "aload") else 3)
    assert session.generate(PROMPT, max_tokens=1).usage.completion_tokens == 1
    session.close()
    chat.close()
    assert_idle(engine)


def test_two_loops_in_two_threads_share_an_engine(engine: sm.Engine) -> None:
    # P-13
    expected = engine.generate(PROMPT, seed=4, max_tokens=10, ignore_eos=True).token_ids

    async def read() -> list[int]:
        stream = engine.stream(PROMPT, seed=4, max_tokens=10, ignore_eos=True)
        return [token.id async for token in stream]

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(read() for _ in range(10)))

    outputs: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: outputs.append(asyncio.run(all_of_them())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [[expected] * 10] * 2


def test_failures_come_out_of_the_await(smollm2: Path) -> None:
    # A38, B20, B21
    async def main() -> None:
        engine = sm.Engine(
            smollm2, n_threads=2, max_buffered_tokens=2, on_full="error", max_queue_depth=1
        )
        slow = engine.stream(PROMPT, max_tokens=50, ignore_eos=True)
        assert (await slow.__anext__()).index == 0
        while engine.status().n_running or engine.status().n_queued:
            await asyncio.sleep(0.005)
        with pytest.raises(sm.BufferFullError, match=slow.session_id):
            while True:
                await slow.__anext__()
        tasks = [
            asyncio.create_task(
                engine.text_session().agenerate(PROMPT, max_tokens=5_000, ignore_eos=True)
            )
            for _ in range(200)
        ]
        await asyncio.sleep(0.3)
        engine.close()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(end) for end in ends}
        assert kinds == {sm.QueueFullError, sm.EngineClosedError}

    asyncio.run(main())
