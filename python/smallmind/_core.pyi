"""
The core of smallmind. Use the names of the package smallmind instead.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import os
import smallmind.file_summary
import smallmind.results
import typing
__all__: list[str] = ['CancellationToken', 'Engine', 'Params', 'Session', 'Stream', 'Tokenizer', 'Waker', 'configure_runtime', 'inspect_file', 'runtime_status', 'shut_down', 'shut_down_runtime']
class CancellationToken:
    """
    Ends the calls that it was given to, from any thread, at any time.
    
    The first cause wins: `reason` is "cancelled" after `cancel()`, "timeout" after the deadline of
    `timeout` or `cancel_after` passed, None before. A token does not reset.
    """
    @staticmethod
    def linked(*args: CancellationToken) -> CancellationToken:
        """
        A token that trips when any of the given ones does; cancelling it leaves them alone.
        """
    def __init__(self, timeout: typing.SupportsFloat | typing.SupportsIndex | None = None) -> None:
        """
        timeout: seconds from now, None for no deadline.
        """
    def __reduce_ex__(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> tuple[typing.Any, ...]:
        ...
    def __repr__(self) -> str:
        ...
    def cancel(self) -> None:
        """
        Trips the token. Calls that wait on it return at once; a second cancel does nothing.
        """
    def cancel_after(self, seconds: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Sets the deadline, or makes it earlier.
        """
    def check(self) -> None:
        """
        Raises CancelledError or DeadlineError if tripped.
        """
    @property
    def cancelled(self) -> bool:
        ...
    @property
    def reason(self) -> str | None:
        """
        None, "cancelled" or "timeout".
        """
class Params:
    """
    The core's form of smallmind.SamplingParams.
    """
    def __init__(self, *, max_tokens: typing.SupportsInt | typing.SupportsIndex | None, temperature: typing.SupportsFloat | typing.SupportsIndex, top_k: typing.SupportsInt | typing.SupportsIndex, top_p: typing.SupportsFloat | typing.SupportsIndex, min_p: typing.SupportsFloat | typing.SupportsIndex, repeat_penalty: typing.SupportsFloat | typing.SupportsIndex, repeat_last_n: typing.SupportsInt | typing.SupportsIndex, presence_penalty: typing.SupportsFloat | typing.SupportsIndex, frequency_penalty: typing.SupportsFloat | typing.SupportsIndex, stop: tuple[str, ...], ignore_eos: bool, logit_bias: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], logprobs: typing.SupportsInt | typing.SupportsIndex | None, seed: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    def validate(self, n_vocab: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Raises InvalidArgumentError naming the field, its value and its range.
        """
class Tokenizer:
    """
    A model's vocabulary: text to ids and back. Immutable; any thread.
    """
    @staticmethod
    def from_gguf(path: str | bytes | os.PathLike[str], *, progress: collections.abc.Callable[[str, int, int], typing.Any] | None = None, cancel: CancellationToken | None = None) -> Tokenizer:
        """
        Reads the vocabulary of a GGUF file; weights are not needed.
        """
    def __len__(self) -> int:
        ...
    def __reduce_ex__(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> tuple[typing.Any, ...]:
        ...
    def __repr__(self) -> str:
        ...
    def decode(self, ids: collections.abc.Sequence[int], skip_special: bool = True) -> str:
        """
        The text of ids; bad UTF-8 becomes U+FFFD. skip_special leaves control tokens out.
        """
    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """
        The ids of a text. add_special: with the model's BOS (and EOS, where the model wants it).
        parse_special: the text of a control token becomes that token; never for text of others.
        """
    def encode_marked(self, text: str, add_special: bool, parse_special: bool, literal_marks: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> list[int]:
        """
        The same; no control token is read across a byte offset of literal_marks.
        """
    def is_control(self, id: int) -> bool:
        ...
    def is_end_of_generation(self, id: int) -> bool:
        ...
    def token_bytes(self, id: int) -> bytes:
        """
        The bytes that a token stands for.
        """
    @property
    def add_bos(self) -> bool:
        ...
    @property
    def bos_id(self) -> int | None:
        ...
    @property
    def chat_template(self) -> str | None:
        """
        The model's Jinja template, or None.
        """
    @property
    def control_texts(self) -> list[str]:
        ...
    @property
    def eos_id(self) -> int | None:
        ...
    @property
    def memory_bytes(self) -> int:
        ...
    @property
    def n_vocab(self) -> int:
        ...
class Waker:
    """
    One event descriptor through which many streams tell one event loop.
    """
    def __init__(self) -> None:
        ...
    def fileno(self) -> int:
        ...
    def take_ready(self) -> list[int]:
        """
        Empties the descriptor; the keys of the streams with news, each once.
        """
class Stream:
    """
    The reading end of a generation.
    """
    def __init__(self, stream: Stream) -> None:
        """
        For subclasses: another reader of the same stream.
        """
    def __iter__(self) -> typing.Any:
        ...
    def __next__(self) -> smallmind.results.Token:
        ...
    def attach(self, waker: Waker, key: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def cancel(self) -> None:
        """
        Ends the generation from any thread; what was made can still be read.
        """
    def close(self) -> None:
        """
        Ends the generation, drops what was not read and frees the session. Idempotent.
        """
    def partial_result(self) -> smallmind.results.GenerationResult:
        ...
    def poll(self) -> smallmind.results.Token | None:
        """
        The next token if there is one; StopAsyncIteration at the end.
        """
    def poll_end(self) -> bool:
        """
        Whether the end has come; takes no tokens.
        """
    def result(self) -> smallmind.results.GenerationResult:
        """
        Reads to the end and returns the result.
        """
    @property
    def failed(self) -> bool:
        ...
    @property
    def finish_reason(self) -> str | None:
        """
        None before the end, then why the generation ended.
        """
    @property
    def finished(self) -> bool:
        ...
    @property
    def session_id(self) -> str:
        """
        The id of the session that it belongs to.
        """
class Session:
    """
    One growing context; one call at a time.
    """
    def __len__(self) -> int:
        ...
    def cancel(self) -> None:
        ...
    def close(self) -> None:
        ...
    def fork(self, session_id: typing.Any) -> Session:
        ...
    def generate(self, input: typing.Any, params: Params, cancel: CancellationToken | None, timeout: typing.SupportsFloat | typing.SupportsIndex | None) -> smallmind.results.GenerationResult:
        ...
    def generate_context(self, input: typing.Any, params: Params, cancel: CancellationToken | None, timeout: typing.SupportsFloat | typing.SupportsIndex | None) -> smallmind.results.GenerationResult:
        ...
    def reset(self) -> None:
        ...
    def start(self, input: typing.Any, params: Params, cancel: CancellationToken | None, timeout: typing.SupportsFloat | typing.SupportsIndex | None, *, collect_only: bool = False, owns_session: bool = False) -> Stream:
        ...
    def start_context(self, input: typing.Any, params: Params, cancel: CancellationToken | None, timeout: typing.SupportsFloat | typing.SupportsIndex | None, *, collect_only: bool = False, owns_session: bool = False) -> Stream:
        ...
    @property
    def busy(self) -> bool:
        ...
    @property
    def closed(self) -> bool:
        ...
    @property
    def id(self) -> str:
        ...
    @property
    def token_ids(self) -> list[int]:
        ...
class Engine:
    """
    One model, many sessions; any thread.
    """
    @staticmethod
    def load(path: str | bytes | os.PathLike[str], *, n_threads: typing.SupportsInt | typing.SupportsIndex | None, context_length: typing.SupportsInt | typing.SupportsIndex | None, enable_kv_cache: bool, cache_type: str, kv_limit: typing.SupportsInt | typing.SupportsIndex | None, max_kv_tokens: typing.SupportsInt | typing.SupportsIndex | None, max_queue_depth: typing.SupportsInt | typing.SupportsIndex | None, max_buffered_tokens: typing.SupportsInt | typing.SupportsIndex, on_full: str, request_timeout: typing.SupportsFloat | typing.SupportsIndex | None, progress: collections.abc.Callable[[str, int, int], typing.Any] | None, cancel: CancellationToken | None) -> Engine:
        ...
    def close(self) -> None:
        ...
    def info(self) -> smallmind.results.EngineInfo:
        ...
    def memory(self) -> smallmind.results.EngineMemory:
        ...
    def score(self, ids: collections.abc.Sequence[int], *, positions: typing.Any, out: typing.Any, cancel: CancellationToken | None, progress: collections.abc.Callable[[str, int, int], typing.Any] | None) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def status(self) -> smallmind.results.EngineStatus:
        ...
    def text_session(self, session_id: typing.Any, max_kv_tokens: typing.SupportsInt | typing.SupportsIndex | None, cache_salt: typing.Any, fairness_key: typing.Any) -> Session:
        ...
    def tokenizer(self) -> Tokenizer:
        ...
    @property
    def closed(self) -> bool:
        ...
def configure_runtime(*, n_threads: typing.SupportsInt | typing.SupportsIndex | None, max_queue_size: typing.SupportsInt | typing.SupportsIndex | None, stack_size: typing.SupportsInt | typing.SupportsIndex | None, thread_name_prefix: str | None, presets: collections.abc.Sequence[str]) -> None:
    """
    See smallmind.runtime.configure.
    """
def inspect_file(path: str | bytes | os.PathLike[str], *, cancel: CancellationToken | None = None) -> smallmind.file_summary.FileSummary:
    """
    Metadata and tensors of a GGUF file, checked, escaped and cut; reads no tensor data.
    """
def runtime_status() -> dict[str, typing.Any]:
    """
    The fields of smallmind.runtime.RuntimeStatus.
    """
def shut_down() -> None:
    """
    Called when the interpreter ends.
    """
def shut_down_runtime(*, is_cancel: bool, timeout: typing.SupportsFloat | typing.SupportsIndex | None) -> bool:
    """
    See smallmind.runtime.shutdown.
    """
