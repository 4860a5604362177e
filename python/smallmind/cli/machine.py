"""What a receipt says beside its figures: the machine, the build, the model file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path

FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def machine() -> str:
    cpu = _cpuinfo()
    name = cpu.get("model name", f"{platform.machine()} processor")
    if "cpu family" in cpu:
        name += f" (family {cpu['cpu family']}, model {cpu.get('model')})"
    n_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{name}, {len(os.sched_getaffinity(0))} processors, {n_bytes >> 30} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def cpu_features() -> list[str]:
    """Of the instruction sets that matter here, those that the processor has."""
    cpu = _cpuinfo()
    has = set(f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split())
    return [name for name in FEATURES if name in has]


def compiler(binary: Path) -> str:
    """What wrote itself into a compiled file."""
    names = rb"GCC: \([^)\0]*\) [\d.]+|[\w ]*clang version [\d.]+"
    found = set(re.findall(names, binary.read_bytes()))
    return ", ".join(sorted(name.decode().strip() for name in found)) or "unknown"


def commit() -> str | None:
    """Where the package was installed from a git address: the commit; None elsewhere."""
    text = metadata.distribution("smallmind").read_text("direct_url.json")
    source = json.loads(text) if text else {}
    found = source.get("vcs_info", {}).get("commit_id")
    return None if found is None else str(found)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
