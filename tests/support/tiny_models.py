"""Writes tiny GGUF models with random weights and a small working tokenizer.

Every architecture, tensor type and hyper-parameter that an accuracy test wants to cross is a field
of TinySpec. The weights are scaled so that attention is neither flat nor one-hot and logits have a
spread of a few units, as in a trained model: then a wrong graph shows.
    python tests/support/tiny_models.py OUT.gguf [--architecture gemma3] [--type Q4_K]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

# Roles of a layer's matrices, with token_embd and output beside them.
ROLES = (
    "token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output",
    "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K")
EOS_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class TinySpec:
    """REQUIRES: rows of a role of n-element blocks are a multiple of n (256 for K-quants)."""

    architecture: str = "llama"
    n_layers: int = 2
    n_embd: int = 256
    n_ff: int = 512
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    context_length: int = 1024
    rope_dims: int | None = None  # None: all of head_dim; only llama has the key
    rope_base: float = 10_000.0
    window: int = 48  # gemma3 only
    softcap: float = 0.0  # gemma3 only; 0: no key
    tied: bool = True
    n_vocab: int = 0  # 0: what the tokenizer needs; more is filled with unused tokens
    tokenizer: str = ""  # "gpt2" or "spm"; empty: gpt2 for llama, spm for gemma3
    type: str = "F32"
    # By role, over `type`; "1.attn_v" is layer 1's alone.
    types: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    seed: int = 1

    def type_of(self, role: str, i_layer: int | None = None) -> GGMLQuantizationType:
        of_all = self.types.get(role, self.type)
        return GGMLQuantizationType[self.types.get(f"{i_layer}.{role}", of_all)]


# The mixes of the two real models, and one that puts every type into one model.
SMOLLM_MIX: Mapping[str, str] = {**dict.fromkeys(ROLES, "Q4_1"), "token_embd": "Q8_0"}
GEMMA_MIX: Mapping[str, str] = {
    "token_embd": "Q8_0", "output": "Q8_0", "attn_q": "Q5_0", "attn_k": "Q5_0", "attn_v": "Q8_0",
    "attn_output": "Q4_K", "ffn_gate": "Q5_0", "ffn_up": "Q5_0", "ffn_down": "Q6_K",
}  # fmt: skip
EVERY_TYPE: Mapping[str, str] = {
    "token_embd": "Q6_K", "output": "F16", "attn_q": "Q4_0", "attn_k": "BF16", "attn_v": "F32",
    "attn_output": "Q4_K", "ffn_gate": "Q5_0", "ffn_up": "Q4_1", "ffn_down": "Q8_0",
}  # fmt: skip


def _k_quant_blocks(
    rng: np.random.Generator, kind: GGMLQuantizationType, rows: int, columns: int, std: float
) -> npt.NDArray[np.uint8]:
    """Random valid blocks about `std` wide; gguf cannot quantise to these, only back."""
    elements, size = GGML_QUANT_SIZES[kind]
    n = rows * columns // elements
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    wobble = rng.uniform(0.8, 1.25, n)
    if kind == GGMLQuantizationType.Q4_K:
        # q * sc is about 7.5 * 31 beside a min of as much: 250 steps of the scale.
        blocks[:, 0:2] = (std / 250 * wobble).astype(np.float16).reshape(n, 1).view(np.uint8)
        blocks[:, 2:4] = (std / 33 * wobble).astype(np.float16).reshape(n, 1).view(np.uint8)
    else:
        # 16 signed scales at 192, the scale of the block at 208.
        blocks[:, 192:208] = rng.integers(-32, 33, (n, 16)).astype(np.int8).view(np.uint8)
        blocks[:, 208:210] = (std / 345 * wobble).astype(np.float16).reshape(n, 1).view(np.uint8)
    return blocks.reshape(rows, columns // elements * size)


def _matrix(
    rng: np.random.Generator, kind: GGMLQuantizationType, rows: int, columns: int, std: float
) -> npt.NDArray[Any]:
    if columns % GGML_QUANT_SIZES[kind][0]:
        raise ValueError(f"{columns} columns are no multiple of a block of {kind.name}")
    if kind in (GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K):
        return _k_quant_blocks(rng, kind, rows, columns, std)
    values = (rng.standard_normal((rows, columns)) * std).astype(np.float32)
    return np.asarray(quantize(values, kind))


def byte_alphabet() -> list[str]:
    """The printable stand-in of each byte in a GPT-2 vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def _gpt2_vocabulary() -> tuple[list[str], list[int], list[str]]:
    """256 bytes, some merges, then the control tokens: tokens, types, merges."""
    space = byte_alphabet()[0x20]
    merges = [
        ("t", "h"), ("th", "e"), (space, "the"), ("i", "n"), ("e", "r"), (space, "a"), ("a", "n"),
        ("o", "n"), ("in", "g"), (space, "w"), ("an", "d"), (space, "and"), ("o", "u"), ("e", "s"),
        ("r", "e"), (space, "s"), ("l", "l"), ("o", "r"),
    ]  # fmt: skip
    tokens = [*byte_alphabet(), *(a + b for a, b in merges)]
    types = [int(TokenType.NORMAL)] * len(tokens)
    control = [EOS_TEXT, "<|im_start|>", "<|im_end|>"]
    return (
        tokens + control,
        types + [int(TokenType.CONTROL)] * len(control),
        [f"{a} {b}" for a, b in merges],
    )


def _spm_vocabulary() -> tuple[list[str], list[int], list[float]]:
    """pad, eos, bos, unk, 256 byte tokens, then pieces with scores: tokens, types, scores."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    types = [int(TokenType.CONTROL)] * 3 + [int(TokenType.UNKNOWN)] + [int(TokenType.BYTE)] * 256
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ.,!?éüñж中")
    pieces = ["\u2581", *letters, "th", "the", "\u2581the", "in", "an", "and", "\u2581a", "ing"]
    scores = [0.0] * len(tokens) + [-float(i + 1) for i in range(len(pieces))]
    return tokens + pieces, types + [int(TokenType.NORMAL)] * len(pieces), scores


def _add_tokenizer(writer: GGUFWriter, spec: TinySpec) -> int:
    """Writes the vocabulary and returns its size."""
    kind = spec.tokenizer or ("gpt2" if spec.architecture == "llama" else "spm")
    merges: list[str] = []
    if kind == "gpt2":
        tokens, types, merges = _gpt2_vocabulary()
        scores = [0.0] * len(tokens)
    else:
        tokens, types, scores = _spm_vocabulary()
    n_fill = max(0, spec.n_vocab - len(tokens))
    tokens += [f"[unused{i}]" for i in range(n_fill)]
    types += [int(TokenType.UNUSED)] * n_fill
    scores += [-1000.0] * n_fill
    writer.add_tokenizer_model("gpt2" if kind == "gpt2" else "llama")
    writer.add_tokenizer_pre("gpt-2" if kind == "gpt2" else "default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind == "gpt2":
        end = tokens.index(EOS_TEXT)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
    else:
        writer.add_token_scores(scores)
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(3)
        writer.add_pad_token_id(0)
        writer.add_add_space_prefix(False)
    writer.add_add_bos_token(kind == "spm")
    if spec.chat_template is not None:
        writer.add_chat_template(spec.chat_template)
    return len(tokens)


def _add_hyper_parameters(writer: GGUFWriter, spec: TinySpec, n_vocab: int) -> None:
    writer.add_name(f"tiny {spec.architecture}")
    writer.add_context_length(spec.context_length)
    writer.add_embedding_length(spec.n_embd)
    writer.add_block_count(spec.n_layers)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_heads)
    writer.add_head_count_kv(spec.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5 if spec.architecture == "llama" else 1e-6)
    writer.add_rope_freq_base(spec.rope_base)
    writer.add_vocab_size(n_vocab)
    if spec.architecture == "gemma3":
        writer.add_sliding_window(spec.window)
        if spec.softcap:
            writer.add_final_logit_softcapping(spec.softcap)
    else:
        writer.add_rope_dimension_count(spec.rope_dims or spec.head_dim)
    if spec.architecture == "gemma3" or spec.head_dim * spec.n_heads != spec.n_embd:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)


def _add_tensors(writer: GGUFWriter, spec: TinySpec, n_vocab: int) -> None:
    rng = np.random.default_rng(spec.seed)
    gemma = spec.architecture == "gemma3"

    def matrix(name: str, role: str, rows: int, columns: int, std: float) -> None:
        kind = spec.type_of(role, int(name.split(".")[1]) if name.startswith("blk.") else None)
        writer.add_tensor(name, _matrix(rng, kind, rows, columns, std), raw_dtype=kind)

    def norm(name: str, n: int, scale: float = 1.0) -> None:
        writer.add_tensor(name, (scale * (1 + 0.2 * rng.standard_normal(n))).astype(np.float32))

    q_width, kv_width = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    unit, mixed, inner = (n**-0.5 for n in (spec.n_embd, q_width, spec.n_ff))
    # Logits spread by about 4 units. Gemma scales its embedding up: a long one would drown the
    # layers and a tied model would only repeat its input, so its norms carry the spread instead.
    length, loud, last = (1.0, 3.0, 4.0) if gemma else (4.0, 1.0, 1.0)
    matrix("token_embd.weight", "token_embd", n_vocab, spec.n_embd, length * unit)
    for i in range(spec.n_layers):
        p = f"blk.{i}."
        norm(p + "attn_norm.weight", spec.n_embd)
        matrix(p + "attn_q.weight", "attn_q", q_width, spec.n_embd, 1.5 * unit)
        matrix(p + "attn_k.weight", "attn_k", kv_width, spec.n_embd, 1.5 * unit)
        matrix(p + "attn_v.weight", "attn_v", kv_width, spec.n_embd, unit)
        matrix(p + "attn_output.weight", "attn_output", spec.n_embd, q_width, mixed)
        if gemma:
            norm(p + "attn_q_norm.weight", spec.head_dim)
            norm(p + "attn_k_norm.weight", spec.head_dim)
            norm(p + "post_attention_norm.weight", spec.n_embd, loud)
            norm(p + "post_ffw_norm.weight", spec.n_embd, loud)
        norm(p + "ffn_norm.weight", spec.n_embd)
        matrix(p + "ffn_gate.weight", "ffn_gate", spec.n_ff, spec.n_embd, unit)
        matrix(p + "ffn_up.weight", "ffn_up", spec.n_ff, spec.n_embd, unit)
        matrix(p + "ffn_down.weight", "ffn_down", spec.n_embd, spec.n_ff, 2 * inner)
    norm("output_norm.weight", spec.n_embd, last)
    if not spec.tied:
        matrix("output.weight", "output", n_vocab, spec.n_embd, length * unit)


def write_tiny(path: Path, spec: TinySpec) -> Path:
    """The same spec gives the same bytes."""
    writer = GGUFWriter(path, spec.architecture)
    n_vocab = _add_tokenizer(writer, spec)
    _add_hyper_parameters(writer, spec, n_vocab)
    _add_tensors(writer, spec, n_vocab)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes one tiny random model.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--architecture", choices=("llama", "gemma3"), default="llama")
    parser.add_argument("--type", choices=TYPES, default="F32")
    options = parser.parse_args()
    write_tiny(options.out, TinySpec(architecture=options.architecture, type=options.type))


if __name__ == "__main__":
    main()
