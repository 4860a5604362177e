"""Writes vectors.json: texts of ours, and their ids by Hugging Face tokenizers.

Run: python tests/golden/tokenizer/make_vectors.py SMOLLM2.gguf GEMMA3.gguf

Needs gguf, tokenizers and, for a second opinion on Gemma, sentencepiece with protobuf. The
tokenizers are built from the vocabulary in each file: byte-level BPE with SmolLM2's two
pre-tokenizers; for Gemma a BPE whose merges are every way to cut a token into two, the best score
first, with byte fallback. Gemma's ids must come out of sentencepiece's own BPE model as well.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

HERE = Path(__file__).resolve().parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\t\n  \r\n",
    "Hello, world!",
    " leading space",
    "trailing space ",
    "two  spaces, three   spaces and    four",
    "The quick brown fox jumps over the lazy dog. It didn't stop; it'll never stop, they'd say.",
    "I'VE SEEN WE'RE and you'd, she's, I'm, 'tis, rock'n'roll, ''quoted'' and 'S.",
    "In 1969, 3 people flew 384,400 km at 39,897 km/h; 0.5 % of 12345678901234567890.",
    "Version 1.2.3-rc4+build.567, 0x1F600, 1e-9, ½ ⅓ ² ³ Ⅷ ٣٤٥ १२३ 一二三",
    "def fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];  // dot\n}\n\n\n#endif\r\n",
    '{"name": "smallmind", "ids": [1, 2, 3], "nested": {"ok": true, "none": null}}\n',
    '<p class="x">A &amp; B<br/></p>\n<table><tr><td>1</td></tr></table>',
    "SELECT * FROM t WHERE a >= 10 AND b != 'it''s'; -- comment",
    "https://example.org/a/b?c=d&e=%20f#g and mail@example.org",
    "Die Straße überquert den Fluß; größer, schöner, ÄÖÜ.",
    "L'été dernier, à Besançon, où naïveté et cœur s'entremêlent : « voilà ».",
    "El niño comió piñas en la mañana, ¿verdad? ¡Sí!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "אבגד הוז חטי, שלום עולם!",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก วันนี้อากาศดี",
    "你好，世界！今天天气很好。人工智能正在改变我们的生活方式。",
    "こんにちは、世界！私は日本語のテキストです。カタカナとひらがな。",
    "안녕하세요, 세계! 오늘은 날씨가 좋네요.",
    "🚀🦙 smile 😀😁 family 👨‍👩‍👧‍👦 flag 🇩🇪 skin 👍🏽 heart ❤️",
    "e\u0301 vs é, a\u0308\u0323 n\u0303, Z\u0351\u036b\u0343a\u0334l\u0322g\u0315o\u0336",
    "zero\u200bwidth, no\u00a0break, thin\u2009space, ideographic\u3000space, line\u2028sep",
    "\ufeffbyte order mark and \u2581 the lower block",
    "∀x∈ℝ: ∫₀^∞ e^{-x²} dx = √π/2 ≈ 0.8862…",
    "a" * 70,
    "ab" * 40 + "!" * 33 + "=" * 65,
    " " * 67 + "x" + "\n" * 35 + "\t" * 33 + "y",
    " \n \n\n  \n   end",
    "!!! ... ---- ____ ~~~~ //// \\\\\\\\ $$$ %%% ^^^ &&& *** ((( )))",
    "word\nword\r\nword\rword\n\nword \n word\t word",
    "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|im_start|><|im_end|> half <|im_ end|> <repo_name>x<file_sep>",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n<eos><unused7>",
    "<s>[INST] x [/INST]</s> <0x41> <unk> <pad> [multimodal]",
    "Mixed: Привет mundo 世界 مرحبا 123 ok\u00fc\u00df! (ﬁne ﬂow ﬀ) ŉ ſ K Å ẞ Ǆ",
    "CamelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case x2y3z 4K",
]


def random_texts(n: int) -> list[str]:
    """Texts of random words, marks and characters of several scripts."""
    draw = random.Random(20240517)
    pools = [
        "etaoinshrdlu",
        "ABCXYZ",
        "0123456789",
        " \n\t",
        ".,;:!?'\"()-",
        "äéñßøł",
        "жзиклм",
        "漢字仮名交",
        "ابتث",
        "😀🚀⭐",
    ]
    weights = [40, 4, 6, 22, 8, 6, 6, 5, 3, 2]
    return [
        "".join(
            draw.choice(pool) for pool in draw.choices(pools, weights, k=draw.randrange(1, 120))
        )
        for _ in range(n)
    ]


def read_field(reader: GGUFReader, name: str) -> Any:
    """A field's value as Python data."""
    field = reader.fields.get("tokenizer.ggml." + name)
    return None if field is None else field.contents()


def add_specials(tokenizer: Tokenizer, tokens: list[str], types: list[int], parsed: bool) -> None:
    """User-defined tokens always; control tokens where they are to be parsed."""
    wanted = {USER_DEFINED, CONTROL, UNKNOWN} if parsed else {USER_DEFINED}
    found = [
        AddedToken(token, normalized=False, special=kind != USER_DEFINED)
        for token, kind in zip(tokens, types, strict=True)
        if kind in wanted
    ]
    tokenizer.add_tokens(found)


def smollm2(path: str, parsed: bool) -> Tokenizer:
    """SmolLM2's tokenizer from the file."""
    reader = GGUFReader(path)
    tokens, types = read_field(reader, "tokens"), read_field(reader, "token_type")
    merges = [tuple(line.split(" ")) for line in read_field(reader, "merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    add_specials(tokenizer, tokens, types, parsed)
    return tokenizer


def gemma3(path: str, parsed: bool) -> Tokenizer:
    """Gemma's tokenizer from the file."""
    reader = GGUFReader(path)
    tokens, types = read_field(reader, "tokens"), read_field(reader, "token_type")
    scores = read_field(reader, "scores")
    vocab = {token: i for i, token in enumerate(tokens)}
    plain = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    merges = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind != NORMAL:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                merges.append((-score, vocab[left], vocab[right], (left, right)))
    merges.sort()
    tokenizer = Tokenizer(
        BPE(
            vocab=vocab,
            merges=[m[3] for m in merges],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    add_specials(tokenizer, tokens, types, parsed)
    return tokenizer


def gemma3_sentencepiece(path: str) -> sentencepiece.SentencePieceProcessor:
    """The same vocabulary as a sentencepiece model."""
    reader = GGUFReader(path)
    messages: Any = sentencepiece_model_pb2  # its classes are made at run time
    model = messages.ModelProto()
    rows = zip(
        read_field(reader, "tokens"),
        read_field(reader, "scores"),
        read_field(reader, "token_type"),
        strict=True,
    )
    for token, score, kind in rows:
        text = token.replace(" ", "▁") if kind == USER_DEFINED else token
        unknown = token == "<unk>"
        model.pieces.add(piece=text, score=score, type=UNKNOWN if unknown else kind)
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def main() -> None:
    """Writes the vectors next to this script."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    texts = TEXTS + random_texts(60)
    models: dict[str, dict[str, list[list[int]]]] = {}
    for name, make, path in (("smollm2", smollm2, sys.argv[1]), ("gemma3", gemma3, sys.argv[2])):
        models[name] = {
            key: [t.encode(text, add_special_tokens=False).ids for text in texts]
            for key, t in (("plain", make(path, False)), ("parsed", make(path, True)))
        }
    second = gemma3_sentencepiece(sys.argv[2])
    for text, ids in zip(texts, models["gemma3"]["plain"], strict=True):
        # It looks for user-defined tokens after U+2581 has become a space, the others before.
        if "\u2581" not in text and second.encode(text) != ids:
            raise SystemExit(f"sentencepiece differs on {text!r}:\n{second.encode(text)}\n{ids}")
    rows = ",\n".join(
        json.dumps(
            [text] + [models[m][k][i] for m in models for k in ("plain", "parsed")],
            ensure_ascii=True,
            separators=(",", ":"),
        )
        for i, text in enumerate(texts)
    )
    columns = json.dumps(["text"] + [f"{m}.{k}" for m in models for k in ("plain", "parsed")])
    (HERE / "vectors.json").write_text(
        f'{{"columns": {columns},\n"rows": [\n{rows}\n]}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
