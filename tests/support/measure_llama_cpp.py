"""Records llama.cpp's distance from fp32 on the parity texts in golden/parity/llama_cpp.json.

Run once a version of llama.cpp, with llama-cpp-python installed (it is no dependency of the tests):
    python tests/support/measure_llama_cpp.py MODEL.gguf [MODEL.gguf ...]
Each section of the texts is one sequence in a fresh context, every position's logits are taken, and
the default settings of the library apply (f16 KV cache). The ids are llama.cpp's own and are
recorded: the parity test scores the same ids and checks that our tokenizer makes the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from divergence import Accumulator
from reference import ReferenceModel
from texts import PARITY, TEXTS, file_sha256, sections

SLAB = 128


class LlamaCpp:
    """One model through the C API of llama.cpp; one thread."""

    def __init__(self, path: Path, n_threads: int) -> None:
        self.n_threads = n_threads
        # The library keeps the callback's address only: the object must live as long as this one.
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path.name}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocab))

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), buffer, room, True, False)
        if n < 0:
            raise RuntimeError("llama_tokenize failed")
        return list(buffer[:n])

    def score(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits after every id, [n, n_vocab]."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = len(ids) + 8
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self.n_threads
        context = llama_cpp.llama_init_from_model(self.model, params)
        batch = llama_cpp.llama_batch_init(SLAB, 0, 1)
        out = np.empty((len(ids), self.n_vocab), np.float32)
        for start in range(0, len(ids), SLAB):
            part = ids[start : start + SLAB]
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i] = token
                batch.pos[i] = start + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            if llama_cpp.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode failed at position {start}")
            for i in range(len(part)):
                row = llama_cpp.llama_get_logits_ith(context, i)
                out[start + i] = np.ctypeslib.as_array(row, (self.n_vocab,))
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        return out


def measure(path: Path, n_threads: int) -> dict[str, Any]:
    peer = LlamaCpp(path, n_threads)
    reference = ReferenceModel(path)
    total = Accumulator()
    ids: dict[str, list[int]] = {}
    per_section: dict[str, Any] = {}
    for name, text in sections().items():
        ids[name] = peer.encode(text)
        theirs = peer.score(ids[name])
        hidden = reference.hidden(ids[name])
        part = Accumulator()
        for start in range(0, len(theirs), SLAB):
            rows = slice(start, start + SLAB)
            truth = reference.logits(hidden[rows])
            part.add(truth, theirs[rows])
            total.add(truth, theirs[rows])
        per_section[name] = part.summary().as_dict()
    return {
        "model_sha256": file_sha256(path),
        "model_bytes": path.stat().st_size,
        **total.summary().as_dict(),
        "sections": per_section,
        "ids": ids,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Records llama.cpp's distance from fp32.")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PARITY / "llama_cpp.json")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "llama_cpp_python": llama_cpp.__version__,
        "system": llama_cpp.llama_print_system_info().decode().strip(),
        "date": time.strftime("%Y-%m-%d"),
        "texts_sha256": hashlib.sha256(TEXTS.read_bytes()).hexdigest(),
        "models": {},
    }
    for path in options.models:
        record["models"][path.stem] = measure(path, options.threads)
        shown = {k: v for k, v in record["models"][path.stem].items() if k != "ids"}
        print(path.stem, json.dumps(shown, indent=1))
    text = json.dumps(record, indent=1)
    options.out.write_text(_ids_on_one_line(text), encoding="utf-8")


def _ids_on_one_line(text: str) -> str:
    """Joins the lines of arrays of integers, which indent= writes one number a line."""
    out: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        number = bare.rstrip(",").lstrip("-").isdigit()
        if out and (number or (bare.startswith("]") and out[-1].rstrip()[-1].isdigit())):
            out[-1] += (" " if number and not out[-1].endswith("[") else "") + bare
        else:
            out.append(line)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
