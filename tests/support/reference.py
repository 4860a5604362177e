"""An independent reading of the llama and gemma3 graphs, in NumPy, over dequantised weights.

It shares nothing with the product: tensors come from `gguf`'s reader and `gguf.quants.dequantize`,
the whole text is one batch, products are NumPy's, and no activation is ever rounded to eight bits.
Used as the fp32 truth of every accuracy test. `check_transformers.py` compares it with
transformers' own graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]

# Gemma 3: five sliding layers, then one that sees everything; sliding layers rotate with this base.
GLOBAL_EVERY = 6
LOCAL_ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class Config:
    """What the graphs need from the metadata. window 0: none. softcap 0: none."""

    architecture: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_dim: int
    rope_dims: int
    rope_base: float
    eps: float
    window: int
    softcap: float

    def is_global(self, layer: int) -> bool:
        return self.window == 0 or (layer + 1) % GLOBAL_EVERY == 0


def read_config(reader: GGUFReader) -> Config:
    """REQUIRES: a llama or gemma3 file without RoPE scaling, which this reference does not know."""
    values: dict[str, Any] = {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith("tokenizer.")
    }
    arch = str(values["general.architecture"])
    if arch not in ("llama", "gemma3"):
        raise ValueError(f"no reference graph for {arch!r}")
    if any(f"{arch}.rope.scaling" in key for key in values):
        raise ValueError("the reference has no RoPE scaling")

    def get(key: str, default: Any = None) -> Any:
        value = values.get(f"{arch}.{key}", default)
        if value is None:
            raise KeyError(f"{arch}.{key}")
        return value

    n_heads = int(get("attention.head_count"))
    head_dim = int(get("attention.key_length", int(get("embedding_length")) // n_heads))
    return Config(
        architecture=arch,
        n_layers=int(get("block_count")),
        n_embd=int(get("embedding_length")),
        n_heads=n_heads,
        n_kv_heads=int(get("attention.head_count_kv", n_heads)),
        head_dim=head_dim,
        value_dim=int(get("attention.value_length", head_dim)),
        rope_dims=int(get("rope.dimension_count", head_dim)),
        rope_base=float(get("rope.freq_base", 10_000.0)),
        eps=float(get("attention.layer_norm_rms_epsilon")),
        window=int(get("attention.sliding_window", 0)) if arch == "gemma3" else 0,
        softcap=float(get("final_logit_softcapping", 0.0)),
    )


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    mean = np.mean(np.square(x), axis=-1, keepdims=True)
    out: Array = x / np.sqrt(mean + x.dtype.type(eps)) * weight
    return out


def silu(x: Array) -> Array:
    # exp(-|x|) cannot overflow.
    e = np.exp(-np.abs(x))
    one = x.dtype.type(1)
    out: Array = x * np.where(x >= 0, one, e) / (one + e)
    return out


def gelu_tanh(x: Array) -> Array:
    c = x.dtype.type(np.sqrt(2 / np.pi))
    out: Array = x * (np.tanh(c * (x + x.dtype.type(0.044715) * x * x * x)) + 1) / 2
    return out


def rotate(x: Array, base: float, rope_dims: int, *, interleaved: bool) -> Array:
    """RoPE on [n, heads, head_dim] at positions 0 ... n - 1; dims past rope_dims stay.

    interleaved: pairs (2i, 2i + 1), the order GGUF's llama conversion permutes q and k into;
    otherwise (i, i + rope_dims / 2).
    """
    half = rope_dims // 2
    angle = np.outer(np.arange(len(x)), base ** (-np.arange(half, dtype=np.float64) / half))
    cos = np.cos(angle).astype(x.dtype)[:, None, :]
    sin = np.sin(angle).astype(x.dtype)[:, None, :]
    first = slice(0, rope_dims, 2) if interleaved else slice(0, half)
    second = slice(1, rope_dims, 2) if interleaved else slice(half, rope_dims)
    out: Array = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def visible_keys(n: int, window: int) -> npt.NDArray[np.bool_]:
    """[query, key]: causal, and with a window only keys fewer than `window` places back."""
    back = np.arange(n)[:, None] - np.arange(n)[None, :]
    return (back >= 0) & (back < window) if window else back >= 0


def attend(q: Array, k: Array, v: Array, visible: npt.NDArray[np.bool_]) -> Array:
    """Softmax attention, [n, heads, d] by [n, kv_heads, d]; query head h reads head h // group."""
    n, n_heads, head_dim = q.shape
    group = n_heads // k.shape[1]
    scale = q.dtype.type(1 / np.sqrt(head_dim))
    out = np.empty((n, n_heads, v.shape[2]), q.dtype)
    unseen = ~visible
    for h in range(n_heads):
        scores = (q[:, h] * scale) @ k[:, h // group].T
        np.copyto(scores, -np.inf, where=unseen)  # every row keeps its own key, so no row is empty
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        out[:, h] = (scores @ v[:, h // group]) / scores.sum(axis=1, keepdims=True)
    return out.reshape(n, -1)


class ReferenceModel:
    """One model's weights in `dtype`; float64 serves tiny models where the truth must be exact.

    Constant after construction. Batch products take the BLAS's own threads. product() and mix()
    are the two places where an engine rounds on purpose: simulated.py overrides them.
    """

    def __init__(self, path: Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        reader = GGUFReader(path)
        self.config = read_config(reader)
        self.weights: dict[str, Array] = {
            t.name: np.ascontiguousarray(
                dequantize(t.data, t.tensor_type), dtype=np.float32
            ).astype(dtype, copy=False)
            for t in reader.tensors
        }
        self.kinds = {t.name: t.tensor_type.name for t in reader.tensors}
        tied = "output.weight" not in self.weights
        self.output_name = "token_embd.weight" if tied else "output.weight"
        self.n_vocab = len(self.weights[self.output_name])

    def product(self, x: Array, name: str) -> Array:
        """x times the transposed weight."""
        out: Array = x @ self.weights[name].T
        return out

    def mix(self, q: Array, k: Array, v: Array, visible: npt.NDArray[np.bool_]) -> Array:
        """Attention over rotated q and k."""
        return attend(q, k, v, visible)

    def hidden(self, ids: npt.ArrayLike) -> Array:
        """The normalised last hidden state of every position, [n, n_embd]."""
        config = self.config
        x = self.weights["token_embd.weight"][np.asarray(ids, np.int64)]
        if config.architecture == "gemma3":
            x = x * x.dtype.type(np.sqrt(config.n_embd))
        masks = {True: visible_keys(len(x), 0), False: visible_keys(len(x), config.window)}
        for layer in range(config.n_layers):
            x = self._layer(x, layer, masks[config.is_global(layer)])
        return rms_norm(x, self.weights["output_norm.weight"], config.eps)

    def logits(self, hidden: Array) -> Array:
        """Raw logits of some rows of hidden(): take them in slabs where the vocabulary is large."""
        logits = self.product(hidden, self.output_name)
        cap = logits.dtype.type(self.config.softcap)
        return np.tanh(logits / cap) * cap if cap else logits

    def score(self, ids: npt.ArrayLike) -> Array:
        return self.logits(self.hidden(ids))

    def _norm(self, x: Array, layer: int, name: str) -> Array:
        return rms_norm(x, self.weights[f"blk.{layer}.{name}.weight"], self.config.eps)

    def _linear(self, x: Array, layer: int, name: str) -> Array:
        return self.product(x, f"blk.{layer}.{name}.weight")

    def _layer(self, x: Array, layer: int, visible: npt.NDArray[np.bool_]) -> Array:
        gemma = self.config.architecture == "gemma3"
        a = self._attention(self._norm(x, layer, "attn_norm"), layer, visible)
        x = x + (self._norm(a, layer, "post_attention_norm") if gemma else a)
        h = self._norm(x, layer, "ffn_norm")
        gate = self._linear(h, layer, "ffn_gate")
        gate = gelu_tanh(gate) if gemma else silu(gate)
        f = self._linear(gate * self._linear(h, layer, "ffn_up"), layer, "ffn_down")
        return x + (self._norm(f, layer, "post_ffw_norm") if gemma else f)

    def _attention(self, h: Array, layer: int, visible: npt.NDArray[np.bool_]) -> Array:
        config = self.config
        q = self._linear(h, layer, "attn_q").reshape(-1, config.n_heads, config.head_dim)
        k = self._linear(h, layer, "attn_k").reshape(-1, config.n_kv_heads, config.head_dim)
        v = self._linear(h, layer, "attn_v").reshape(-1, config.n_kv_heads, config.value_dim)
        gemma = config.architecture == "gemma3"
        if gemma:
            q = self._norm(q, layer, "attn_q_norm")
            k = self._norm(k, layer, "attn_k_norm")
        local = gemma and not config.is_global(layer)
        base = LOCAL_ROPE_BASE if local else config.rope_base
        q = rotate(q, base, config.rope_dims, interleaved=not gemma)
        k = rotate(k, base, config.rope_dims, interleaved=not gemma)
        return self._linear(self.mix(q, k, v, visible), layer, "attn_output")
