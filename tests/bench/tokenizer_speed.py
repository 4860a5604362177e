"""Text to ids beside another tokenizer with the same vocabulary, on a MiB of English and of code.

    python tests/bench/tokenizer_speed.py SM --peer huggingface
    python tests/bench/tokenizer_speed.py G3 --peer llama.cpp [--peer-python PEERS/bin/python]

One thread each, in processes of their own, in turn; the times are the thread's own processor time.
Both must give the same ids. Bound (issue 5): 5 x. The texts come with Python: the pages of its help
and docstrings, and the sources of the standard library. Of our own alone: twice as much of one
character takes twice as long, or a little more (n log n), and not four times.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import hashlib
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

TEXT_BYTES = 1 << 20
Encode = Callable[[str], list[int]]


def _sources() -> Iterator[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "pydoc_data", "encodings", "lib2to3"}
    for path in sorted(folder.rglob("*.py")):
        if not skipped.intersection(path.relative_to(folder).parts):
            yield path.read_text(encoding="utf-8", errors="replace")


def _prose() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for source in _sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text + "\n\n"


def _first_mib(parts: Iterator[str]) -> str:
    text = b""
    for part in parts:
        text += part.encode()
        if len(text) >= TEXT_BYTES:
            break
    return text[:TEXT_BYTES].decode(errors="ignore")


def texts() -> dict[str, str]:
    return {"english": _first_mib(_prose()), "code": _first_mib(_sources())}


def repeated() -> dict[str, str]:
    kinds = {"letters": "a", "spaces": " ", "marks": "!", "newlines": "\n"}
    texts = {kind: character * (4 * TEXT_BYTES) for kind, character in kinds.items()}
    return {**texts, **{f"half of {k}": t[: 2 * TEXT_BYTES] for k, t in texts.items()}}


def huggingface(model: Path) -> tuple[str, Encode]:
    """SmolLM2's tokenizer, from the file's vocabulary."""
    import tokenizers
    from gguf import GGUFReader
    from tokenizers import models, pre_tokenizers

    fields = GGUFReader(str(model)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(line.split(" ")) for line in fields["tokenizer.ggml.merges"].contents()]
    bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    tokenizer = tokenizers.Tokenizer(bpe)
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])

    def encode(text: str) -> list[int]:
        # Its cache of words stays from one call to the next, as its users have it.
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return f"tokenizers {tokenizers.__version__}", encode


def llama_cpp(model: Path) -> tuple[str, Encode]:
    import llama_cpp as library

    quiet = library.llama_log_callback(lambda level, text, data: None)
    library.llama_log_set(quiet, None)
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    handle = library.llama_model_load_from_file(str(model).encode(), parameters)
    vocab = library.llama_model_get_vocab(handle)
    out = (ctypes.c_int32 * (TEXT_BYTES + 8))()

    def encode(text: str) -> list[int]:
        data = text.encode()
        n = library.llama_tokenize(vocab, data, len(data), out, len(out), False, False)
        return out[:n]

    return f"llama-cpp-python {library.__version__}", encode


def smallmind(model: Path) -> tuple[str, Encode]:
    import smallmind as sm

    tokenizer = sm.Tokenizer.from_gguf(model)
    return "smallmind", lambda text: tokenizer.encode(text, add_special=False)


ENGINES = {"huggingface": huggingface, "llama.cpp": llama_cpp, "smallmind": smallmind}


class Served:
    """One tokenizer in a process of its own, which encodes when it is told to."""

    def __init__(self, python: str, engine: str, model: Path) -> None:
        self._process = subprocess.Popen(
            [python, __file__, "--serve", engine, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = str(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def seconds(self, name: str) -> tuple[float, str]:
        """Of processor time for one encoding, and a digest of the ids."""
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        seconds, ids = self._answer()
        return seconds, ids

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(engine: str, model: Path) -> None:
    version, encode = ENGINES[engine](model)
    print(json.dumps(version), flush=True)
    known = {**texts(), **repeated()}
    for line in sys.stdin:
        text = known[line.strip()]
        start = time.thread_time()
        ids = encode(text)
        seconds = time.thread_time() - start
        digest = hashlib.sha256(array("i", ids).tobytes()).hexdigest()
        print(json.dumps([seconds, digest]), flush=True)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    import receipt

    ours = Served(sys.executable, "smallmind", options.model)
    theirs = Served(options.peer_python, options.peer, options.model)
    figures: dict[str, Any] = {"peer": theirs.version, "rounds": options.rounds}
    for name, text in texts().items():
        own, other = [], []
        for _ in range(options.rounds):
            (own_s, own_ids), (other_s, other_ids) = ours.seconds(name), theirs.seconds(name)
            if own_ids != other_ids:
                raise SystemExit(f"{name}: the ids differ")
            own.append(own_s)
            other.append(other_s)
        times = statistics.median(b / a for a, b in zip(own, other, strict=True))
        receipt.bound(figures, f"{name}: times as fast", times, at_least=5)
        megabytes = len(text.encode()) / 1e6
        figures[name] = {
            "smallmind": receipt.summary([megabytes / s for s in own], "MB/s"),
            options.peer: receipt.summary([megabytes / s for s in other], "MB/s"),
        }
    for kind in repeated():
        if (half := f"half of {kind}") in repeated():
            whole_s = min(ours.seconds(kind)[0] for _ in range(3))
            half_s = min(ours.seconds(half)[0] for _ in range(3))
            figures[f"{kind}, ms a MiB"] = round(1e3 * whole_s / 4, 1)
            receipt.bound(figures, f"{kind}: twice the text", whole_s / half_s, at_most=3)
    ours.close()
    theirs.close()
    return figures


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:  # in a Python that has the tokenizer, and maybe no more
        return serve(sys.argv[2], Path(sys.argv[3]))
    import receipt

    parser = receipt.arguments(__doc__ or "")
    parser.add_argument("--peer", choices=["huggingface", "llama.cpp"], required=True)
    parser.add_argument("--peer-python", default=sys.executable, help="one that has the peer")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    receipt.write(options, "tokenizer_speed", compare(options))


if __name__ == "__main__":
    main()
