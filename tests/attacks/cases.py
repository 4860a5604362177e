"""Hostile model files: one generator a row of the hazard list, each yielding Cases.

A case is a whole file, made from a good tiny model by the edits that its row speaks of, with the
exceptions that are right for it and the words of which one must be in the message (the field at
fault). Nothing is stored: the same base gives the same cases.
"""

from __future__ import annotations

import functools
import math
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import gguf_file as gf
from gguf_file import Entry, GgufFile, Tensor, array, number, numbers, string, strings
from tiny_models import TinySpec, write_tiny

FORMAT = frozenset({"ModelFormatError"})
LIMIT = frozenset({"ModelLimitError"})
UNSUPPORTED = frozenset({"UnsupportedModelError"})

U64_MAX = 2**64 - 1
EDGES = (U64_MAX, 2**63, 2**32)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@dataclass(frozen=True)
class Case:
    row: str  # "G-14"
    name: str  # unique
    data: bytes
    expects: frozenset[str]  # names of exceptions
    mentions: tuple[str, ...]  # one of these is in the message


@functools.cache
def base(architecture: str) -> GgufFile:
    """A good model of 2 layers, 64 wide. Its K, Q and V are as quantised as 64 columns can be."""
    spec = TinySpec(
        architecture=architecture, n_embd=64, n_ff=128, n_heads=4, n_kv_heads=2, head_dim=16,
        context_length=128, window=8, types={"attn_q": "Q8_0", "ffn_up": "Q4_0"},
        chat_template=TEMPLATE,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return gf.parse(write_tiny(Path(folder) / "tiny.gguf", spec).read_bytes())


ARCHITECTURES = ("llama", "gemma3")


# ---- the file itself ----------------------------------------------------------------------------


def g01_magic(arch: str) -> Iterator[Case]:
    good = base(arch).to_bytes()
    heads = {
        "swapped": b"FUGG", "ggml": b"GGML", "ggjt": b"GGJT", "zip": b"PK\x03\x04",
        "gzip": b"\x1f\x8b\x08\x00", "pickle": b"\x80\x04\x95\x10", "elf": b"\x7fELF",
        "safetensors": struct.pack("<Q", 64)[:4], "text": b"hell",
    }  # fmt: skip
    for name, head in heads.items():
        yield Case("G-01", name, head + good[4:], FORMAT, ("magic",))
    for n in range(4):
        yield Case("G-01", f"{n}-bytes", good[:n], FORMAT, ("magic",))


def g02_truncation(arch: str) -> Iterator[Case]:
    """Every 61st prefix and all around the end; the C++ tests and the next test cut everywhere."""
    good = base(arch).to_bytes()
    n_header = len(base(arch).header())
    cuts = {*range(4, n_header, 61), *range(n_header - 40, n_header + 40), len(good) // 2}
    for n in sorted(cuts):
        yield Case("G-02", f"cut-{n}", good[:n], FORMAT, ("byte",))


def g03_version(arch: str) -> Iterator[Case]:
    for version in (0, 1, 4, 2**32 - 1, 0x03000000):
        words = ("big-endian",) if version == 0x03000000 else ("version",)
        data = replace(base(arch), version=version).to_bytes()
        yield Case("G-03", str(version), data, UNSUPPORTED, words)


def g04_to_g07_counts(arch: str) -> Iterator[Case]:
    good = base(arch)
    for n in (*EDGES, U64_MAX // 88, U64_MAX // 88 + 1, 65_537):
        yield Case("G-04", f"n_tensors-{n}", replace(good, n_tensors=n).to_bytes(), LIMIT,
                   ("n_tensors",))  # fmt: skip
        yield Case("G-05", f"n_kv-{n}", replace(good, n_kv=n).to_bytes(), LIMIT, ("n_kv",))
    small = GgufFile((), (), n_kv=60_000)
    yield Case("G-06", "n_kv", small.to_bytes() + bytes(1000), FORMAT, ("n_kv",))
    small = GgufFile((), (), n_tensors=60_000)
    yield Case("G-06", "n_tensors", small.to_bytes() + bytes(1000), FORMAT, ("n_tensors",))
    fewer = replace(good, n_kv=len(good.entries) - 1)
    yield Case("G-07", "n_kv-1", fewer.to_bytes(), FORMAT | UNSUPPORTED, ("tensor", "key"))
    fewer = replace(good, n_tensors=len(good.tensors) - 1)
    yield Case("G-07", "n_tensors-1", fewer.to_bytes(), FORMAT, ("tensor",))
    yield Case("G-07", "no-tensors", replace(good, tensors=()).to_bytes(), FORMAT, ("tensor",))


def raw_entry(file: GgufFile, data: bytes) -> bytes:
    """The file with `data` where its first entry should stand."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(file.tensors), len(file.entries) + 1)
    return head + data + file.to_bytes()[24:]


def g08_to_g12_keys(arch: str) -> Iterator[Case]:
    good = base(arch)
    for n in (*EDGES, 2**30):
        data = raw_entry(good, struct.pack("<Q", n) + b"k" * 20)
        yield Case("G-08", f"key-length-{n}", data, FORMAT, ("key length",))
    kinds = {
        "empty": b"", "nul": b"a\0b", "escape": b"a\x1b[31mb", "newline": b"a\nb",
        "not-utf8": b"a\xff", "surrogate": b"\xed\xa0\x80", "long": b"k" * 65_536,
    }  # fmt: skip
    for name, key in kinds.items():
        row = "G-09" if name == "empty" else "G-12"
        yield Case(row, name, good.add(Entry(key, gf.U32, bytes(4))).to_bytes(), FORMAT, ("key",))
    for key in ("general.architecture", "general.alignment", "tokenizer.chat_template"):
        entry = good.get(key) if good.has(key) else Entry(key.encode(), gf.U32, number(gf.U32, 32))
        twice = good.set(key, entry.type, entry.value).add(entry)
        yield Case("G-10", key, twice.to_bytes(), FORMAT, (key,))
    many = [Entry(b"k%d" % i, gf.U8, b"\1") for i in range(65_537)]
    yield Case("G-11", "keys", GgufFile(tuple(many), ()).to_bytes(), LIMIT, ("n_kv",))


def g13_to_g19_values(arch: str) -> Iterator[Case]:
    good = base(arch)
    for kind in (13, 255, 2**31, 2**32 - 1):
        entry = Entry(b"odd.key", kind, bytes(8))
        yield Case("G-13", f"type-{kind}", good.add(entry).to_bytes(), FORMAT, ("odd.key",))
        entry = Entry(b"odd.key", gf.ARRAY, array(kind, [], 2**60))
        yield Case("G-13", f"element-{kind}", good.add(entry).to_bytes(), FORMAT, ("odd.key",))
    for value in (2, 255):
        key = "tokenizer.ggml.add_bos_token"
        file = good.set(key, gf.BOOL, bytes([value]))
        yield Case("G-15", str(value), file.to_bytes(), FORMAT, (key,))
    for n in (*EDGES, 2**30):
        file = good.set("general.name", gf.STRING, struct.pack("<Q", n) + b"x")
        yield Case("G-16", f"length-{n}", file.to_bytes(), FORMAT, ("general.name",))
    file = good.set("general.name", gf.STRING, string(b"x" * (2**20 + 1)))
    yield Case("G-16", "over-limit", file.to_bytes(), LIMIT, ("general.name",))
    for kind in (gf.U8, gf.U16, gf.F32, gf.STRING, gf.BOOL, gf.U64):
        for n in (U64_MAX, 2**61 + 1, 2**32):
            entry = Entry(b"odd.key", gf.ARRAY, array(kind, [bytes(8)], n))
            yield Case("G-17", f"{kind}-{n}", good.add(entry).to_bytes(), FORMAT, ("odd.key",))
    last = good.add(Entry(b"odd.key", gf.ARRAY, numbers(gf.U64, [1, 2, 3]))).entries
    whole = GgufFile(last, ()).header()
    for n in range(1, 25, 3):
        yield Case("G-18", f"cut-{n}", whole[:-n], FORMAT, ("odd.key",))
    for depth in (1, 2, 100_000):
        nested = array(gf.ARRAY, [], 1) * depth + array(gf.U8, [b"\1"])
        yield Case("G-19", f"depth-{depth + 1}",
                   good.add(Entry(b"odd.key", gf.ARRAY, nested)).to_bytes(), UNSUPPORTED,
                   ("odd.key",))  # fmt: skip


def any_value(kind: int) -> bytes:
    if kind == gf.STRING:
        return string("text")
    return numbers(gf.U8, [1, 2]) if kind == gf.ARRAY else number(kind, 1)


def known_keys(arch: str) -> tuple[str, ...]:
    """What the loader reads of the tiny model, the file name and notes for people left out."""
    ignored = ("general.name", f"{arch}.vocab_size")
    return tuple(key for entry in base(arch).entries if (key := entry.key.decode()) not in ignored)


def g14_types(arch: str) -> Iterator[Case]:
    for key in known_keys(arch):
        for kind in range(13):
            if kind == base(arch).get(key).type:
                continue
            file = base(arch).set(key, kind, any_value(kind))
            yield Case("G-14", f"{key}-{gf.TYPE_NAMES[kind]}", file.to_bytes(),
                       FORMAT | UNSUPPORTED, (key,))  # fmt: skip


def g20_g21_arrays(arch: str) -> Iterator[Case]:
    good = base(arch)
    for key in TOKENIZER_ARRAYS:
        if not good.has(key):
            continue
        element, n = struct.unpack_from("<IQ", good.get(key).value)
        for kind in range(13):
            if kind in (element, gf.ARRAY):
                continue
            item = string("x") if kind == gf.STRING else number(kind, 1)
            file = good.set(key, gf.ARRAY, array(kind, [item] * n))
            yield Case("G-20", f"{key}-{gf.TYPE_NAMES[kind]}", file.to_bytes(), FORMAT, (key,))
        if element == gf.STRING:
            continue
        for m in (0, n - 1, n + 1):
            file = good.set(key, gf.ARRAY, numbers(element, [1] * m))
            yield Case("G-21", f"{key}-{m}", file.to_bytes(), FORMAT, (key,))


TOKENIZER_ARRAYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
                    "tokenizer.ggml.merges")  # fmt: skip


def g22_floats(arch: str) -> Iterator[Case]:
    for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
        for value in (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e38):
            key = f"{arch}.{name}"
            file = base(arch).set(key, gf.F32, number(gf.F32, value))
            yield Case("G-22", f"{key}-{value}", file.to_bytes(), FORMAT, (key,))


def g23_alignment(arch: str) -> Iterator[Case]:
    key = "general.alignment"
    # 1 is a power of two, so the C++ tests have it among the good ones.
    for value in (0, 3, 13, 2**17, 2**31):
        file = base(arch).set_u32(key, value)
        yield Case("G-23", str(value), file.to_bytes(), FORMAT, (key,))
    file = base(arch).set(key, gf.I32, number(gf.I32, 32))
    yield Case("G-23", "i32", file.to_bytes(), FORMAT, (key,))


# ---- what the model needs -----------------------------------------------------------------------


def g24_architecture(arch: str) -> Iterator[Case]:
    key = "general.architecture"
    good = base(arch)
    either = FORMAT | UNSUPPORTED
    yield Case("G-24", "absent", good.without(key).to_bytes(), either, (key,))
    for name in ("unknown", "", "../../etc", "llama\0", "LLAMA"):
        file = good.set(key, gf.STRING, string(name))
        yield Case("G-24", f"name-{name!r}", file.to_bytes(), UNSUPPORTED, (key,))
    file = good.set(key, gf.ARRAY, strings(["llama"]))
    yield Case("G-24", "array", file.to_bytes(), either, (key,))
    file = good.set(key, gf.STRING, string(b"x" * 10_000_000))
    yield Case("G-24", "10-MB", file.to_bytes(), LIMIT, (key,))


def counts(row: str, key: str, values: tuple[int, ...], expects: frozenset[str], arch: str,
           *also: str) -> Iterator[Case]:  # fmt: skip
    for value in values:
        file = base(arch).set_u32(f"{arch}.{key}", value)
        yield Case(row, f"{key}-{value}", file.to_bytes(), expects, (f"{arch}.{key}", *also))


def g25_to_g33_hyper_parameters(arch: str) -> Iterator[Case]:
    yield from counts("G-25", "block_count", (0,), FORMAT, arch)
    yield from counts("G-25", "block_count", (1025, 10**6, 2**32 - 1), LIMIT, arch)
    yield from counts("G-25", "block_count", (1, 3), FORMAT, arch, "tensor")
    head_dims = ("attention.key_length", "attention.value_length")
    yield from counts("G-26", "attention.head_count", (0, 3, 65, 2**31, 2**32 - 1), FORMAT, arch,
                      "attention.head_count_kv", "attn_q")  # fmt: skip
    yield from counts("G-27", "attention.head_count_kv", (0, 3, 8, 2**31), FORMAT, arch)
    for key in head_dims:
        yield from counts("G-28", key, (0, 1, 17, 2**31), FORMAT, arch, *head_dims)
    yield from counts("G-28", "rope.dimension_count", (0, 3, 18, 2**31), FORMAT, arch)
    yield from counts("G-29", "embedding_length", (0, 1, 63, 2**31), FORMAT, arch, "tensor",
                      "attention.head_count")  # fmt: skip
    yield from counts("G-29", "feed_forward_length", (0, 1, 127, 2**31), FORMAT, arch, "tensor")
    yield from counts("G-30", "context_length", (0, 2**31, 2**32 - 1), FORMAT | LIMIT, arch)
    per_layer = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    for key in per_layer:
        for n in (0, 1, 3):
            file = base(arch).set(f"{arch}.{key}", gf.ARRAY, numbers(gf.I32, [2] * n))
            yield Case("G-31", f"{key}-{n}", file.to_bytes(), FORMAT | UNSUPPORTED,
                       (f"{arch}.{key}",))  # fmt: skip
    either = FORMAT | UNSUPPORTED
    for total, used in ((8, 2), (8, 0), (2, 8), (2**31, 2**31)):
        file = base(arch).set_u32(f"{arch}.expert_count", total)
        file = file.set_u32(f"{arch}.expert_used_count", used)
        yield Case("G-32", f"{total}-{used}", file.to_bytes(), either, (f"{arch}.expert",))
    if arch == "gemma3":
        yield from counts("G-33", "attention.sliding_window", (0, 2**32 - 1), FORMAT, arch)
        for n in (0, 1, 3):
            key = f"{arch}.attention.sliding_window_pattern"
            file = base(arch).set(key, gf.ARRAY, numbers(gf.BOOL, [1] * n))
            yield Case("G-33", f"pattern-{n}", file.to_bytes(), either, (key,))


def zeros_like(tensor: Tensor, dims: tuple[int, ...], n_bytes: int) -> Tensor:
    return replace(tensor, dims=dims, data=bytes(n_bytes))


def g34_vocabulary_rows(arch: str) -> Iterator[Case]:
    name = "token_embd.weight"
    tensor = base(arch).tensor(name)
    columns, rows = tensor.dims
    for n in (rows - 1, rows + 1, 1):
        file = base(arch).set_tensor(name, zeros_like(tensor, (columns, n), columns * n * 4))
        yield Case("G-34", str(n), file.to_bytes(), FORMAT, (name,))


# ---- what the tokenizer needs -------------------------------------------------------------------


def g35_g36_special_ids(arch: str) -> Iterator[Case]:
    good = base(arch)
    _, n = struct.unpack_from("<IQ", good.get("tokenizer.ggml.tokens").value)
    for name in ("bos", "eos", "unknown", "padding", "seperator", "mask", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        for value in (n, n + 1, 2**31, 2**32 - 1):
            yield Case("G-35", f"{name}-{value}", good.set_u32(key, value).to_bytes(), FORMAT,
                       (key,))  # fmt: skip
    for name in ("bos", "eos"):
        flag = f"tokenizer.ggml.add_{name}_token"
        key = f"tokenizer.ggml.{name}_token_id"
        file = good.set(flag, gf.BOOL, b"\1").without(key)
        yield Case("G-36", name, file.to_bytes(), FORMAT, (key, flag))


def token_list(file: GgufFile) -> list[bytes]:
    value = file.get("tokenizer.ggml.tokens").value
    (n,) = struct.unpack_from("<Q", value, 4)
    found, at = [], 12
    for _ in range(n):
        (size,) = struct.unpack_from("<Q", value, at)
        found.append(value[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def with_token(file: GgufFile, index: int, text: bytes) -> GgufFile:
    tokens = token_list(file)
    tokens[index] = text
    return file.set("tokenizer.ggml.tokens", gf.ARRAY, strings(tokens))


def g37_to_g39_tokens(arch: str) -> Iterator[Case]:
    key = "tokenizer.ggml.tokens"
    good = base(arch)
    tokens = token_list(good)
    normal = len(tokens) - 4 if arch == "gemma3" else 65
    yield Case("G-37", "twice", with_token(good, normal, tokens[normal - 1]).to_bytes(), FORMAT,
               (key,))  # fmt: skip
    for n in (4097, 2**16, 2**20):
        yield Case("G-38", str(n), with_token(good, normal, b"x" * n).to_bytes(), LIMIT, (key,))
    head = array(gf.STRING, [struct.pack("<Q", 2**31) + b"x"], 1)
    yield Case("G-38", "2^31", good.set(key, gf.ARRAY, head).to_bytes(), FORMAT, (key,))
    if arch == "llama":
        return
    first_byte = tokens.index(b"<0x00>")
    for text in (b"<0x-1>", b"<0xZZ>", b"<0x+f>", b"<0X0a>", b"<0x0>", b"<0x000>", b""):
        yield Case("G-39", repr(text), with_token(good, first_byte + 10, text).to_bytes(), FORMAT,
                   (key,))  # fmt: skip
    twice = with_token(good, first_byte + 10, b"<0x0B>")
    yield Case("G-39", "twice", twice.to_bytes(), FORMAT, (key,))
    types_key = "tokenizer.ggml.token_type"
    types = list(struct.unpack_from(f"<{len(tokens)}i", good.get(types_key).value, 12))
    types[first_byte] = 1
    missing = with_token(good, first_byte, b"not a byte")
    missing = missing.set(types_key, gf.ARRAY, numbers(gf.I32, types))
    yield Case("G-39", "255-of-256", missing.to_bytes(), FORMAT, (key, types_key))


def g41_to_g44_tables(arch: str) -> Iterator[Case]:
    good = base(arch)
    key = "tokenizer.ggml.merges"
    if good.has(key):
        bad = {
            "no-space": "abc", "empty": "", "space": " ", "left": " t", "right": "t ",
            "unknown-part": "t \u4e2d", "unknown-result": "z q", "twice": "t h",
        }  # fmt: skip
        for name, line in bad.items():
            file = good.set(key, gf.ARRAY, strings(["t h", line]))
            yield Case("G-41", name, file.to_bytes(), FORMAT, (key,))
        file = good.set(key, gf.ARRAY, strings(["t h", b"x" * 10_000]))
        yield Case("G-41", "long", file.to_bytes(), LIMIT, (key,))
        file = good.set(key, gf.ARRAY, array(gf.STRING, [], 10**7))
        yield Case("G-41", "10^7", file.to_bytes(), FORMAT | LIMIT, (key,))
        yield Case("G-41", "absent", good.without(key).to_bytes(), FORMAT, (key,))
    types_key = "tokenizer.ggml.token_type"
    n = len(token_list(good))
    old = list(struct.unpack_from(f"<{n}i", good.get(types_key).value, 12))
    for value in (-1, 7, 255, -(2**31), 2**31 - 1):
        file = good.set(types_key, gf.ARRAY, numbers(gf.I32, [*old[:-1], value]))
        yield Case("G-42", str(value), file.to_bytes(), FORMAT, (types_key,))
    scores_key = "tokenizer.ggml.scores"
    if good.has(scores_key):
        scores = list(struct.unpack_from(f"<{n}f", good.get(scores_key).value, 12))
        for value in (math.nan, math.inf, -math.inf):
            file = good.set(scores_key, gf.ARRAY, numbers(gf.F32, [*scores[:-1], value]))
            yield Case("G-43", str(value), file.to_bytes(), FORMAT, (scores_key,))
        yield Case("G-43", "absent", good.without(scores_key).to_bytes(), FORMAT, (scores_key,))
    for name in ("model", "pre"):
        key = f"tokenizer.ggml.{name}"
        if name == "pre" and arch == "gemma3":
            continue  # sentence-piece vocabularies have no pre-tokenizer
        for value in ("xyz", "", "GPT2", "gpt2\0"):
            file = good.set(key, gf.STRING, string(value))
            yield Case("G-44", f"{name}-{value!r}", file.to_bytes(), UNSUPPORTED, (key,))
    yield Case("G-44", "no-model", good.without("tokenizer.ggml.model").to_bytes(),
               FORMAT | UNSUPPORTED, ("tokenizer.ggml.model",))  # fmt: skip
    yield Case("G-44", "no-tokens", good.without("tokenizer.ggml.tokens").to_bytes(), FORMAT,
               ("tokenizer.ggml.tokens",))  # fmt: skip


def g49_template(arch: str) -> Iterator[Case]:
    key = "tokenizer.chat_template"
    good = base(arch)
    yield Case("G-49", "array", good.set(key, gf.ARRAY, strings(["{{ x }}"])).to_bytes(), FORMAT,
               (key,))  # fmt: skip
    file = good.set(key, gf.STRING, string(b"\xff\xfe"))
    yield Case("G-49", "not-utf8", file.to_bytes(), FORMAT, (key,))
    for n in (256 * 1024 + 1, 10_000_000):
        file = good.set(key, gf.STRING, string(b" " * n))
        yield Case("G-49", f"{n}-bytes", file.to_bytes(), LIMIT, (key,))
    named = [Entry(f"{key}.{i}".encode(), gf.STRING, string("{{ x }}")) for i in range(10_000)]
    yield Case("G-49", "10^4-named", good.add(*named).to_bytes(), LIMIT, (key,))


# ---- the tensors --------------------------------------------------------------------------------

NORM = "blk.1.ffn_norm.weight"
MATRIX = "blk.1.attn_k.weight"


def edited(arch: str, row: str, label: str, expects: frozenset[str], *words: str,
           name: str = MATRIX, **changes: object) -> Case:  # fmt: skip
    tensor = base(arch).tensor(name)
    file = base(arch).set_tensor(name, replace(tensor, **changes))  # type: ignore[arg-type]
    return Case(row, label, file.to_bytes(), expects, words or (name,))


def g50_to_g53_names_and_extents(arch: str) -> Iterator[Case]:
    names = {
        "empty": b"", "64": b"x" * 64, "nul": b"a\0b", "escape": b"a\x1b[0m", "not-utf8": b"\xff",
        "twice": b"blk.0.attn_k.weight",
    }  # fmt: skip
    for label, new in names.items():
        tensor = replace(base(arch).tensor(MATRIX), name=new)
        file = base(arch).set_tensor(MATRIX, tensor)
        yield Case("G-50", label, file.to_bytes(), FORMAT, ("name",))
    for n_dims in (0, 5, 9, 2**32 - 1):
        yield edited(arch, "G-51", str(n_dims), FORMAT, n_dims=n_dims)
    for axis in range(4):
        for row, value in (("G-52", 0), ("G-53", -1), ("G-53", 2**63)):
            dims = [64, 32, 1, 1]
            dims[axis] = value
            yield edited(arch, row, f"axis-{axis}-{value}", FORMAT, dims=tuple(dims))


def g54_to_g59_sizes(arch: str) -> Iterator[Case]:
    wraps = {
        "to-0": (2**32, 2**32), "to-0-uneven": (2**33, 2**31), "to-0-four": (2**16,) * 4,
        "to-1": (274177, 67280421310721), "to-4": (4, 2**62 + 1), "2^63-1": (2**63 - 1, 1),
        "2^63": (2**32, 2**31),
    }  # fmt: skip
    for label, dims in wraps.items():
        yield edited(arch, "G-54", label, FORMAT, dims=dims)
    blocks = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 8: (32, 34),
              12: (256, 144), 14: (256, 210), 30: (1, 2)}  # fmt: skip
    for kind, (elements, size) in blocks.items():
        for more in range(3):
            n = min((U64_MAX // size + more) * elements, 2**63 - elements)
            yield edited(arch, "G-55", f"{kind}-{more}", FORMAT, type=kind, dims=(n, 1))
    for k in range(0, 65, 4):
        dims = ((2**64 - 1 - k) // 4 % 2**62, 1)
        yield edited(arch, "G-56", str(k), FORMAT, dims=dims)
    tensors = [Tensor(b"t%d" % i, (0x1FFFFFFFFFFFFFF0,), 0, b"", i << 62) for i in range(4)]
    yield Case("G-57", "sum", replace(base(arch), tensors=tuple(tensors)).to_bytes(), FORMAT,
               ("tensor",))  # fmt: skip
    for kind in (-1 % 2**32, 4, 5, *range(31, 39), 40, 255, 2**31):
        yield edited(arch, "G-58", str(kind), UNSUPPORTED, type=kind)
    for n in (31, 33, 255):
        yield edited(arch, "G-59", str(n), FORMAT, type=8, dims=(n, 32))


def g60_to_g62_places(arch: str) -> Iterator[Case]:
    good = base(arch)
    size = len(good.to_bytes())
    for offset in (1, 31, 2**64 - 32, 2**63):
        yield edited(arch, "G-60", str(offset), FORMAT, offset=offset)
    for offset in (size // 32 * 32, 2**40):
        yield edited(arch, "G-61", str(offset), FORMAT, offset=offset)
    whole = good.to_bytes()
    padding = 31  # the last tensor's, at most
    yield Case("G-61", "end-missing", whole[: -1 - padding], FORMAT, ("tensor",))
    yield edited(arch, "G-62", "same-range", FORMAT, "overlap", offset=0)


def tensor_names(arch: str) -> list[str]:
    return [tensor.name.decode() for tensor in base(arch).tensors]


def g63_g64_roles(arch: str) -> Iterator[Case]:
    good = base(arch)
    for name in tensor_names(arch):
        tensor = good.tensor(name)
        yield Case("G-63", f"drop-{name}", good.set_tensor(name).to_bytes(), FORMAT, (name,))
        turned = tensor.dims[::-1] if len(tensor.dims) > 1 else (1, *tensor.dims)
        if turned != tensor.dims:
            file = good.set_tensor(name, replace(tensor, dims=turned))
            yield Case("G-63", f"turn-{name}", file.to_bytes(), FORMAT, (name,))
        # Integer types have no rows in our list of formats; a norm has no quantised form.
        for kind in (24, 25, 26, 27, 28):
            file = good.set_tensor(name, replace(tensor, type=kind))
            yield Case("G-64", f"{name}-{kind}", file.to_bytes(), UNSUPPORTED, (name,))
        if len(tensor.dims) == 1 and tensor.dims[0] % 32 == 0:
            for kind, block in ((2, 18), (8, 34)):
                data = bytes(tensor.dims[0] // 32 * block)
                file = good.set_tensor(name, replace(tensor, type=kind, data=data))
                yield Case("G-64", f"{name}-{kind}", file.to_bytes(), UNSUPPORTED, (name,))
    extra = replace(good.tensor(NORM), name=b"blk.1.extra.weight")
    file = replace(good, tensors=(*good.tensors, extra))
    yield Case("G-63", "extra", file.to_bytes(), FORMAT | UNSUPPORTED, ("blk.1.extra.weight",))


ROWS: tuple[Callable[[str], Iterator[Case]], ...] = (
    g01_magic, g02_truncation, g03_version, g04_to_g07_counts, g08_to_g12_keys, g13_to_g19_values,
    g14_types, g20_g21_arrays, g22_floats, g23_alignment, g24_architecture,
    g25_to_g33_hyper_parameters, g34_vocabulary_rows, g35_g36_special_ids, g37_to_g39_tokens,
    g41_to_g44_tables, g49_template, g50_to_g53_names_and_extents, g54_to_g59_sizes,
    g60_to_g62_places, g63_g64_roles,
)  # fmt: skip


def all_cases() -> Iterator[Case]:
    """Names are unique: row, architecture, what was done."""
    for arch in ARCHITECTURES:
        for generate in ROWS:
            for case in generate(arch):
                yield replace(case, name=f"{case.row}-{arch}-{case.name}")
