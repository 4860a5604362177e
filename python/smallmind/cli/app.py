"""The commands. Each is thin: it finds the model, calls the API, prints."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

import smallmind as sm

from .. import hub
from . import bench as bench_command
from . import demo as demo_command
from . import inspect as inspect_command
from .output import model_path, note, printable, progress_bar, pull_with_bar, reported, say

app = typer.Typer(
    name="smallmind",
    help="LLM inference for GGUF models on CPUs, in this process.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A name that `pull` knows, or the path of a GGUF file.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", help="Compute threads; default: what the machine allows."),
]
ContextOption = Annotated[
    int | None, typer.Option("--context-length", help="Tokens; default: the model's own.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", help="Default: 512, or what the context leaves.")
]
TemperatureOption = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
TopKOption = Annotated[int, typer.Option("--top-k", help="0 is off.")]
TopPOption = Annotated[float, typer.Option("--top-p")]
MinPOption = Annotated[float, typer.Option("--min-p")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Default: drawn, and printed.")]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="Ends the text; may be given several times.")
]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", help="Seconds.")]


def run() -> None:
    app()


def load(model: str, threads: int | None, context_length: int | None) -> sm.Engine:
    path = model_path(model)
    with progress_bar("load") as progress:
        return sm.Engine(path, n_threads=threads, context_length=context_length, progress=progress)


@app.command()
def demo(
    model: ModelOption = hub.DEFAULT_MODEL,
    threads: ThreadsOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens")] = 96,
    seed: Annotated[int, typer.Option("--seed")] = 1,
) -> None:
    """Four threads ask one engine different questions at once; a fifth is cancelled midway."""
    with reported():
        demo_command.run(model, threads, max_tokens, seed)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    model: ModelOption = hub.DEFAULT_MODEL,
    threads: ThreadsOption = None,
    context_length: ContextOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.95,
    min_p: MinPOption = 0.05,
    seed: SeedOption = None,
    stop: StopOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Continues a text, token by token as they come. Ctrl-C ends it."""
    with reported():
        if prompt == "-":
            if sys.stdin is None:
                note("smallmind: standard input is closed, so there is no prompt to read")
                raise typer.Exit(2)
            prompt = sys.stdin.read()
        with (
            load(model, threads, context_length) as engine,
            engine.stream(
                prompt,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                seed=seed,
                stop=stop,
                timeout=timeout,
            ) as stream,
        ):
            for token in stream:
                say(token.text, end="")
            say()
            note(summary(stream.result()))


@app.command()
def chat(
    model: ModelOption = hub.DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
    threads: ThreadsOption = None,
    context_length: ContextOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.8,
    seed: SeedOption = None,
) -> None:
    """Talks with the model. Ctrl-C stops the answer, not the program; Ctrl-D ends it."""
    with (
        reported(),
        load(model, threads, context_length) as engine,
        engine.chat_session(system=system) as session,
    ):
        interactive = sys.stdin is not None and sys.stdin.isatty()
        if interactive:
            note("Ctrl-C stops an answer; Ctrl-D, or /exit, ends the chat; /reset begins anew.")
        for message in messages(interactive):
            if message == "/reset":
                session.reset()
                continue
            answer(session, message, max_tokens, temperature, seed)


def messages(interactive: bool) -> Iterator[str]:
    """One message a line, until the end of input or /exit."""
    if sys.stdin is None:
        note("smallmind: standard input is closed, so there is nothing to answer")
        return
    while True:
        try:
            if interactive:
                say("> ", end="")
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            if not interactive:
                raise
            say()  # the line being typed is dropped, as in a shell
            continue
        if not line or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()


def answer(
    session: sm.ChatSession,
    message: str,
    max_tokens: int | None,
    temperature: float,
    seed: int | None,
) -> None:
    token = sm.CancellationToken()
    try:
        with (
            interrupt_cancels(token),
            session.stream(
                message, max_tokens=max_tokens, temperature=temperature, seed=seed, cancel=token
            ) as stream,
        ):
            for item in stream:
                say(item.text, end="")
            say()
            note(summary(stream.result()))
    except (sm.InvalidArgumentError, sm.ContextLengthError) as error:
        # About this message only: the conversation is as it was before it.
        note(f"smallmind: {type(error).__name__}: {error}")


@contextmanager
def interrupt_cancels(token: sm.CancellationToken) -> Iterator[None]:
    """Ctrl-C trips the token, so that the turn is kept with its text so far; twice interrupts."""

    def handler(number: int, frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def summary(result: sm.GenerationResult | sm.ChatResult) -> str:
    usage, timings = result.usage, result.timings
    rate = ""
    if timings.decode_s > 0 and usage.completion_tokens > 1:
        rate = f", {(usage.completion_tokens - 1) / timings.decode_s:.1f} tokens/s"
    return (
        f"[{result.finish_reason}: {usage.prompt_tokens} + {usage.completion_tokens} tokens, "
        f"first after {timings.first_token_s:.3f} s{rate}, seed {result.seed}]"
    )


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(help="A name that `pull` knows, or the path of a GGUF file.")
    ] = hub.DEFAULT_MODEL,
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Samples of each figure.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="The receipt as JSON.")] = False,
) -> None:
    """Measures a model on this machine and prints a receipt: machine, build, model, samples."""
    with reported():
        bench_command.run(model, threads, rounds, as_json)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A GGUF file; or a name that `pull` knows.")],
    tensors: Annotated[bool, typer.Option(help="List the tensors too.")] = True,
) -> None:
    """Prints the metadata and tensors of a GGUF file, whatever bytes it holds."""
    with reported():
        inspect_command.run(model_path(file), tensors)


@app.command()
def pull(
    name: Annotated[str | None, typer.Argument(help="Without it: lists the models.")] = None,
) -> None:
    """Fetches a model into the cache and prints its path."""
    with reported():
        if name is None:
            for known, entry in hub.MODELS.items():
                say(f"{known}\t{entry.size / 1e6:.0f} MB\t{entry.license}")
            return
        say(printable(pull_with_bar(name)))


@app.command()
def version() -> None:
    """Prints the version."""
    say(sm.__version__)
