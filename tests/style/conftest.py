"""Tests of the house: they read our sources, object files and module, and run nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("house")
    group.addoption(
        "--objects",
        metavar="DIR",
        help="a build folder of the release build: its object files are checked for symbols",
    )
    group.addoption(
        "--debug-objects",
        metavar="DIR",
        help="a build folder with the kernels at -O0: every weak symbol must name its ISA",
    )


def _folder(request: pytest.FixtureRequest, option: str) -> Path:
    given = request.config.getoption(option)
    if given is None:
        pytest.fail(f"give {option} DIR (tests/run does), or deselect: -m 'not objects'")
    folder = Path(given).resolve()
    assert folder.is_dir(), f"{option}: {folder} is not a folder"
    return folder


@pytest.fixture(scope="session")
def objects(request: pytest.FixtureRequest) -> Path:
    return _folder(request, "--objects")


@pytest.fixture(scope="session")
def debug_objects(request: pytest.FixtureRequest) -> Path:
    return _folder(request, "--debug-objects")
