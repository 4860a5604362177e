"""The parity texts: sections of tests/golden/parity/texts.txt, each one sequence."""

from __future__ import annotations

import hashlib
from pathlib import Path

PARITY = Path(__file__).resolve().parent.parent / "golden" / "parity"
TEXTS = PARITY / "texts.txt"
MARK = "@@ "


def sections(path: Path = TEXTS) -> dict[str, str]:
    """Name to text; a line `@@ name` opens a section."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith(MARK):
            lines = found.setdefault(line.removeprefix(MARK).strip(), [])
        else:
            lines.append(line)
    return {name: "".join(part) for name, part in found.items()}


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
