"""The committed stubs of the extension module are the generated ones."""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
from pathlib import Path

import smallmind

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "smallmind"


def normalised(source: str) -> list[str]:
    """Without comments and layout, which differ between versions of the generator."""
    return ast.unparse(ast.parse(source)).splitlines()


def test_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pybind11_stubgen", "smallmind._core", "-o", str(tmp_path)]
    done = subprocess.run([*command, "--exit-code"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    generated = normalised((tmp_path / "smallmind" / "_core.pyi").read_text())
    committed = normalised((PACKAGE / "_core.pyi").read_text())
    difference = list(difflib.unified_diff(committed, generated, "committed", "generated"))
    assert not difference, "\n".join(difference)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (Path(smallmind.__file__).parent / "py.typed").exists()
