"""What all Python tests share: the real models, an engine over the default one, and options.

A test that needs something that this machine lacks prints one line `not run here: ...`; the last
lines of the run count them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import smallmind as sm
from smallmind import hub

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma-3-270m"}

_deselected: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smallmind")
    group.addoption("--all", action="store_true", help="also Gemma 3 and the long runs")
    group.addoption(
        "--shared", default=str(ROOT.parent / "shared"), help="data of the requirements"
    )
    for model, name in NAMES.items():
        variable = f"SMALLMIND_TEST_{model.upper()}"
        group.addoption(
            f"--{model}",
            default=os.environ.get(variable),
            help=f"path of {name}; default: ${variable}, then smallmind.pull",
        )


def pytest_configure(config: pytest.Config) -> None:
    # A runner in the background ignores Ctrl-C, and children inherit that: the tests send it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_at_hand(config: pytest.Config, model: str) -> bool:
    known = hub.MODELS[NAMES[model]]
    cached = hub.cache_dir() / NAMES[model] / known.filename
    return bool(config.getoption(f"--{model}")) or cached.exists()


def _model_path(request: pytest.FixtureRequest, model: str) -> Path:
    given = request.config.getoption(f"--{model}")
    return Path(given) if given else Path(sm.pull(NAMES[model]))


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    return _model_path(request, "smollm2")


@pytest.fixture(scope="session")
def gemma3(request: pytest.FixtureRequest) -> Path:
    return _model_path(request, "gemma3")


@pytest.fixture(scope="session")
def engine(smollm2: Path) -> Iterator[sm.Engine]:
    """One engine for all tests that leave it as they found it."""
    with sm.Engine(smollm2) as shared_engine:
        yield shared_engine


def assert_idle(engine: sm.Engine, n_kv_pages: int | None = None, timeout: float = 2.0) -> None:
    """The loop sees an end with its next plan: soon nothing runs, and no more pages are held."""
    latest = time.monotonic() + timeout
    while time.monotonic() < latest:
        status = engine.status()
        if status.n_running == status.n_queued == 0 and n_kv_pages in (None, status.n_kv_pages):
            return
        time.sleep(0.005)
    raise AssertionError(f"still in use after {timeout} s: {engine.status()}")


def _wants_gemma(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    names = {"model", "name"}
    given = parameters.params if parameters is not None else {}
    return "gemma3" in getattr(item, "fixturenames", ()) or any(
        given.get(name) == "gemma3" for name in names
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The quick run needs the default model only."""
    if config.getoption("--all") or _is_at_hand(config, "gemma3"):
        return
    dropped = [item for item in items if _wants_gemma(item)]
    if dropped:
        _deselected.extend(item.nodeid for item in dropped)
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        line
        for report in terminalreporter.getreports("passed")
        for line in report.capstdout.splitlines()
        if line.startswith("not run here")
    ]
    lines += [f"not run here: {nodeid} (--all runs it)" for nodeid in _deselected]
    if lines:
        terminalreporter.section(f"not run here: {len(lines)}")
        for line in sorted(set(lines)):
            terminalreporter.write_line(line)
