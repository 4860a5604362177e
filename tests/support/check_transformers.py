"""Compares reference.py with transformers' own fp32 graphs on real GGUF files.

Not part of the test run: it needs torch, transformers, accelerate and gguf.
    python tests/support/check_transformers.py MODEL.gguf [N_POSITIONS]
Prints the largest difference of a logit and the mean KL over the first positions of the parity
texts; the figures stand in docs/accuracy.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from divergence import kl_rows
from reference import ReferenceModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = Path(__file__).resolve().parent.parent / "golden" / "parity" / "texts.txt"


def main() -> None:
    path = Path(sys.argv[1])
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    ids = tokenizer(TEXTS.read_text(encoding="utf-8"))["input_ids"][:n]
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    del model
    ours = ReferenceModel(path).score(ids).astype(np.float32)
    difference = np.abs(ours - theirs).max(axis=1)
    print(
        f"{path.name}: {len(ids)} positions, max |logit difference| {difference.max():.2e} "
        f"at {difference.argmax()}, max |logit| {np.abs(theirs).max():.1f}, "
        f"mean KL {kl_rows(theirs, ours).mean():.2e}, "
        f"top-1 {(ours.argmax(1) == theirs.argmax(1)).mean():.4f}"
    )


if __name__ == "__main__":
    main()
