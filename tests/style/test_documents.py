"""The documents say what is so: links lead somewhere, cited tests exist and cite back."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT
from .test_sources import name_of, tracked

DOCUMENTS = tracked("*.md")
HAZARDS = ROOT / "docs" / "hazards.md"

# The rows that this version answers for, each with a test or with the part that will bring it.
ROWS = [
    *(f"G-{n:02d}" for n in (*range(1, 40), *range(41, 72), 76, 80)),
    *(f"A-{n:02d}" for n in (*range(6, 21), *range(30, 36))),
    *(f"L-{n:02d}" for n in (1, 3, 4, 5, 6, 9, 10)),
    *(f"P-{n:02d}" for n in (*range(1, 9), 10, 12, 13, 14, 15)),
]


def table() -> dict[str, tuple[str, str]]:
    answered = HAZARDS.read_text().partition("\n## Not yet answered\n")[0]
    rows = re.findall(r"^\| ([GALP]-\d\d) \| (.*?) \| (.*?) \|$", answered, re.MULTILINE)
    assert len({row[0] for row in rows}) == len(rows), "a row stands twice"
    return {number: (hazard, proof) for number, hazard, proof in rows}


def test_every_hazard_row_is_answered() -> None:
    assert list(table()) == sorted(ROWS, key=lambda r: ("GALP".index(r[0]), r))


@pytest.mark.parametrize("number", ROWS)
def test_hazard_row_is_shown_by_a_test_that_cites_it(number: str) -> None:
    _, proof = table()[number]
    files = re.findall(r"`(tests/[^`]+)`", proof)
    assert files or proof.startswith("later: "), f"{number} has neither test nor later part"
    cited = re.compile(rf"\b{number[0]}-?0?{int(number[2:])}\b")
    for name in files:
        assert (ROOT / name).is_file(), f"{number}: {name} does not exist"
        assert cites(cited, (ROOT / name).read_text(), number), f"{name} does not cite {number}"


def cites(pattern: re.Pattern[str], text: str, number: str) -> bool:
    """By its number, or within a range such as G-04..G-08."""
    if pattern.search(text):
        return True
    for first, last in re.findall(
        rf"{number[0]}-(\d+)\s*(?:\.\.\.?|to|-|–)\s*(?:{number[0]}-)?(\d+)", text
    ):
        if int(first) <= int(number[2:]) <= int(last):
            return True
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_to_files(path) -> None:  # type: ignore[no-untyped-def]
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{name_of(path)} links to {target}"


def test_readme_commands_stand_as_they_are_run() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "g++ python3-dev python3-venv git" in readme
    make = "python3 -m venv .venv && . .venv/bin/activate"
    assert f"\n{make} && pip install '.[demo]' && smallmind demo\n" in readme
    assert "\ntests/run\n" in readme


def test_version_stands_once() -> None:
    version = re.search(
        r'^version = "([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert version is not None
    import smallmind

    assert smallmind.__version__ == version.group(1)
    assert f"## {version.group(1)}" in (ROOT / "docs" / "changelog.md").read_text()
    for path in tracked("python/*.py", "bindings/*", "cpp/*"):
        assert f'"{version.group(1)}"' not in path.read_text(), name_of(path)
