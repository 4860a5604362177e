"""Tokenizers of real vocabularies, against ids and rules that are not ours.

Needs the fixtures `smollm2` and `gemma3` (paths). Vocabularies of ../shared are found through
--shared.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, pre_tokenizers
from tokenizers import Tokenizer as Reference
from tokenizers.models import BPE

import smallmind as sm

ROOT = Path(__file__).resolve().parent.parent.parent
VECTORS: dict[str, Any] = json.loads(
    (ROOT / "tests/golden/tokenizer/vectors.json").read_text(encoding="utf-8")
)
BYTE_LEVEL = ["gpt-2", "llama-bpe", "qwen2"]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

# The patterns as their authors published them; the reference runs them with a regex engine.
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
PATTERNS = {
    "gpt-2": CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-bpe": rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
PATTERNS["smollm"] = PATTERNS["gpt-2"]


def shared_vocabulary(request: pytest.FixtureRequest, name: str) -> Path | None:
    """The file of a shared vocabulary; without it the test says so in one line."""
    shared = Path(request.config.getoption("--shared", default=None) or ROOT.parent / "shared")
    path = shared / "data" / "tokenizers" / f"{name}.gguf"
    if path.exists():
        return path
    print(f"not run here: {name}.gguf is not in {shared.name}/data/tokenizers")
    return None


def reference_of(path: Path) -> Reference:
    """The same vocabulary in Hugging Face tokenizers, user-defined tokens included."""

    def field(name: str) -> Any:
        return reader.fields["tokenizer.ggml." + name].contents()

    reader = GGUFReader(str(path))
    tokens, types, pre = field("tokens"), field("token_type"), field("pre")
    reference = Reference(
        BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(line.split(" ")) for line in field("merges")],
            ignore_merges=pre == "llama-bpe",
        )
    )
    steps = [
        pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    if pre == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    reference.pre_tokenizer = pre_tokenizers.Sequence(steps)
    reference.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == USER_DEFINED
        ]
    )
    return reference


def random_texts(n: int, seed: int) -> list[str]:
    """Texts over all of Unicode, with the characters that pre-tokenizers look at drawn often."""
    draw = random.Random(seed)
    hard = " \n\r\t'sStTreVEmMlLdD019.,!-_(\u00a0\u2028\u3000\u0301\u017f\u00df\u4e2d\U0001f600"

    def character() -> str:
        kind = draw.random()
        if kind < 0.6:
            return draw.choice(hard)
        if kind < 0.75:
            return chr(draw.randrange(0x20, 0x7F))
        limit = 0x800 if kind < 0.9 else 0x10000 if kind < 0.97 else 0x110000
        code = draw.randrange(limit)
        return "?" if 0xD800 <= code < 0xE000 else chr(code)

    return ["".join(character() for _ in range(draw.randrange(40))) for _ in range(n)]


def without_missing_bytes(tokenizer: Any, texts: list[str]) -> list[str]:
    """The texts without the characters for whose bytes the vocabulary has no token."""
    known = {tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)}
    missing = {b for b in range(256) if bytes([b]) not in known}

    def kept(c: str) -> bool:
        return not missing.intersection(c.encode())

    return ["".join(filter(kept, text)) for text in texts]


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "llama-spm"])
def test_ids_equal_the_published_vectors(name: str, request: pytest.FixtureRequest) -> None:
    path = shared_vocabulary(request, name)
    if path is None:
        return
    tokenizer = sm.Tokenizer.from_gguf(str(path))
    blob = Path(f"{path}.inp").read_bytes().decode()
    texts = blob.removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().removesuffix("\n").split("\n")
    assert len(texts) == len(lines) == 46
    for text, line in zip(texts, lines, strict=True):
        ids = [int(number) for number in line.split()]
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_ids_equal_our_vectors(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer = sm.Tokenizer.from_gguf(str(request.getfixturevalue(model)))
    columns = VECTORS["columns"]
    for row in VECTORS["rows"]:
        text, plain, parsed = (
            row[columns.index(c)] for c in ("text", f"{model}.plain", f"{model}.parsed")
        )
        assert tokenizer.encode(text, add_special=False) == plain, text
        assert tokenizer.encode(text, add_special=False, parse_special=True) == parsed, text
        # U+2581 is how Gemma's vocabulary writes a space, so it comes back as one.
        back = text.replace("\u2581", " ") if model == "gemma3" else text
        assert tokenizer.decode(plain) == back
        assert tokenizer.decode(parsed, skip_special=False) == back


@pytest.mark.parametrize("name", ["smollm2", *BYTE_LEVEL])
def test_random_texts_have_the_reference_s_ids(name: str, request: pytest.FixtureRequest) -> None:
    path = (
        Path(request.getfixturevalue(name))
        if name == "smollm2"
        else shared_vocabulary(request, name)
    )
    if path is None:
        return
    tokenizer = sm.Tokenizer.from_gguf(str(path))
    reference = reference_of(path)
    texts = without_missing_bytes(tokenizer, random_texts(2_000, seed=1))
    for text in texts:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special=False) == expected, ascii(text)


@pytest.mark.parametrize("name", ["smollm2", *BYTE_LEVEL])
def test_ten_thousand_random_texts_come_back(name: str, request: pytest.FixtureRequest) -> None:
    # every well-formed text, NUL, marks and unassigned characters among them.
    path = (
        Path(request.getfixturevalue(name))
        if name == "smollm2"
        else shared_vocabulary(request, name)
    )
    if path is None:
        return
    tokenizer = sm.Tokenizer.from_gguf(str(path))
    for text in without_missing_bytes(tokenizer, random_texts(10_000, seed=2)):
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text, ascii(text)


def test_gemma_texts_come_back(gemma3: Any) -> None:
    tokenizer = sm.Tokenizer.from_gguf(str(gemma3))
    for text in random_texts(2_000, seed=3):
        ids = tokenizer.encode(text, add_special=True)
        assert ids[0] == tokenizer.bos_id == 2
        assert tokenizer.decode(ids) == text.replace("\u2581", " "), ascii(text)


def test_a_byte_without_a_token_is_an_error_that_names_it(smollm2: Any) -> None:
    tokenizer = sm.Tokenizer.from_gguf(str(smollm2))
    with pytest.raises(sm.InvalidArgumentError, match=r"byte 4 .*offset 3"):
        tokenizer.encode("abc\x04def")


@pytest.mark.parametrize("name", ["bert-bge", "falcon", "deepseek-llm"])
def test_other_tokenizers_are_refused_by_name(name: str, request: pytest.FixtureRequest) -> None:
    # G-44: never a default in their place.
    path = shared_vocabulary(request, name)
    if path is None:
        return
    with pytest.raises(sm.UnsupportedModelError, match=r"tokenizer\.ggml\.(model|pre)"):
        sm.Tokenizer.from_gguf(str(path))


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_control_tokens_never_come_out_of_content(
    model: str, request: pytest.FixtureRequest
) -> None:
    # the text of every control token, whole and in company.
    tokenizer = sm.Tokenizer.from_gguf(str(request.getfixturevalue(model)))
    texts = tokenizer.control_texts
    assert len(texts) > 10
    for text in texts[:300]:
        ids = tokenizer.encode(f"a{text} {text}{text}", add_special=False)
        assert not any(tokenizer.is_control(i) for i in ids), text
        (parsed,) = tokenizer.encode(text, add_special=False, parse_special=True)
        assert tokenizer.is_control(parsed)
        assert tokenizer.decode([parsed]) == ""
        assert tokenizer.decode([parsed], skip_special=False) == text


def test_the_models_special_tokens(smollm2: Any, gemma3: Any) -> None:
    small = sm.Tokenizer.from_gguf(str(smollm2))
    assert (small.bos_id, small.eos_id, small.add_bos) == (1, 2, False)
    assert [i for i in range(small.n_vocab) if small.is_end_of_generation(i)] == [0, 2]
    assert "im_start" in small.chat_template
    gemma = sm.Tokenizer.from_gguf(str(gemma3))
    assert (gemma.bos_id, gemma.eos_id, gemma.add_bos) == (2, 1, True)
    # "</s>" is a piece of HTML there, no end.
    assert [i for i in range(gemma.n_vocab) if gemma.is_end_of_generation(i)] == [1, 106]
    assert not gemma.chat_template


@pytest.mark.parametrize("bad", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(smollm2: Any, bad: str) -> None:
    with pytest.raises(sm.InvalidArgumentError):
        sm.Tokenizer.from_gguf(str(smollm2)).encode(bad)


@pytest.mark.parametrize("ids", [[-1], [49_152], [2**31 - 1], [5, 2**62]])
def test_ids_out_of_range_are_refused(smollm2: Any, ids: list[int]) -> None:
    with pytest.raises(sm.InvalidArgumentError):
        sm.Tokenizer.from_gguf(str(smollm2)).decode(ids)


GENERATORS: dict[str, Callable[[int], str]] = {
    "letters": lambda n: "a" * n,
    "upper": lambda n: "Z" * n,
    "digits": lambda n: "7" * n,
    "spaces": lambda n: " " * n,
    "newlines": lambda n: "\n" * n,
    "punctuation": lambda n: "!" * n,
    "quotes": lambda n: "'" * n,
    "ab": lambda n: "ab" * (n // 2),
    "the": lambda n: "the" * (n // 3),
    "han": lambda n: "中" * (n // 3),
    "marks": lambda n: "a" + "\u0301" * (n // 2),
    "space and newline": lambda n: " \n" * (n // 2),
    "angle brackets": lambda n: "<" * n,
    "half a special token": lambda n: "<|im_" * (n // 5),
    "special tokens": lambda n: "<|im_end|>" * (n // 10),
    "words": lambda n: "hello world, " * (n // 13),
}


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_time_is_nearly_linear_in_the_text(model: str, request: pytest.FixtureRequest) -> None:
    # 16 times the text. Linear is 16, n log n about 20, quadratic 256.
    tokenizer = sm.Tokenizer.from_gguf(str(request.getfixturevalue(model)))

    def seconds(text: str) -> float:
        start = time.perf_counter()
        tokenizer.encode(text, parse_special=True)
        return time.perf_counter() - start

    for name, make in GENERATORS.items():
        small = min(seconds(make(32 << 10)) for _ in range(3))
        large = min(seconds(make(512 << 10)) for _ in range(2))
        assert large <= 60 * small + 0.05, (name, small, large)


def test_threads_share_one_tokenizer(smollm2: Any) -> None:  # A8
    tokenizer = sm.Tokenizer.from_gguf(str(smollm2))
    texts = without_missing_bytes(tokenizer, random_texts(300, seed=4))
    alone = [tokenizer.encode(text) for text in texts]
    wrong: list[str] = []

    def work() -> None:
        for text, ids in zip(texts, alone, strict=True):
            if tokenizer.encode(text) != ids or tokenizer.decode(ids) != text:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_and_load_time_of_the_largest_vocabulary(gemma3: Any, record_property: Any) -> None:
    def load() -> tuple[float, Any]:
        start = time.perf_counter()
        tokenizer = sm.Tokenizer.from_gguf(str(gemma3))
        return time.perf_counter() - start, tokenizer

    load_s, tokenizer = min((load() for _ in range(3)), key=lambda pair: pair[0])
    record_property("tokenizer", {"load_s": load_s, "memory_bytes": tokenizer.memory_bytes})
    print(f"gemma3: {tokenizer.n_vocab} tokens, {load_s * 1e3:.0f} ms with the header's parsing, ")
    print(f"{tokenizer.memory_bytes / 1e6:.1f} MB")
    assert tokenizer.n_vocab == 262_144
    assert tokenizer.memory_bytes < 10_000_000
    assert load_s < 0.5  # a busy machine; docs/tokenizers.md has the figure of a quiet one


def test_the_unicode_tables_agree_with_python_s() -> None:
    source = (ROOT / "cpp/src/tokenizer/unicode_tables.cc").read_text(encoding="utf-8")
    block_of, blocks = (
        [int(number) for number in re.findall(r"\d+", body)]
        for body in re.findall(r"= \{\n(.*?)\};", source, re.DOTALL)
    )
    wrong = []
    for code in range(0x110000):
        packed = blocks[block_of[code >> 8] * 64 + (code & 255) // 4]
        ours = packed >> 2 * (code & 3) & 3
        category = unicodedata.category(chr(code))
        space = category[0] == "Z" or code == 0x85 or 0x09 <= code <= 0x0D
        expected = 3 if space else {"L": 1, "N": 2}.get(category[0], 0)
        if ours != expected and category != "Cn":
            wrong.append(hex(code))
    # Older and newer versions of Unicode give a few characters another category.
    assert len(wrong) < 10, wrong
