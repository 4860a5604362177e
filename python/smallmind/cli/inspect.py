"""`smallmind inspect`: what a GGUF file says, made safe to look at."""

from __future__ import annotations

from .. import _core
from .output import say, size_of


def run(path: str, with_tensors: bool) -> None:
    # Keys, names and values come from the core escaped and cut to a bounded length (G-71).
    summary = _core.inspect_file(path)
    say(
        f"GGUF version {summary.version}, {size_of(summary.file_bytes)}, "
        f"{len(summary.metadata)} metadata entries, {len(summary.tensors)} tensors, "
        f"alignment {summary.alignment}"
    )
    say()
    width = max((len(entry.key) for entry in summary.metadata), default=0)
    for entry in summary.metadata:
        say(f"{entry.key:<{width}}  {entry.type:<10}  {entry.value}")
    if not with_tensors:
        return
    say()
    width = max((len(tensor.name) for tensor in summary.tensors), default=0)
    for tensor in summary.tensors:
        dims = " x ".join(str(extent) for extent in tensor.dims)
        say(f"{tensor.name:<{width}}  {tensor.type:<5}  {dims:<16}  {size_of(tensor.n_bytes)}")
