"""Hostile model files: each is a typed error that names the field, and harms nothing else.

Hazards G-01 ... G-39, G-41 ... G-44, G-49 ... G-64: the cases of tests/attacks/cases.py, two
architectures each, in a process of their own so that a crash is a failure and not the end of the
tests. Then what is not one file: G-02 and G-76 exhaustively, G-45 ... G-48, G-65, G-68 ... G-71,
G-80. The oracle is the section of the hazard list above its table: type and field, memory, time,
descriptors, threads, a good model afterwards, no raw bytes in messages.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "attacks"))

import cases
import gguf_file as gf

import smallmind as sm

ATTACKS = Path(cases.__file__).parent
MAX_EXTRA_KB = 64 * 1024
TYPED = {"ModelFormatError", "ModelLimitError", "UnsupportedModelError", "ModelIOError"}


def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--all", default=False))


def read_reports(arguments: list[str]) -> tuple[list[dict[str, Any]], str | None]:
    """What load_cases.py said, and the file that it died on."""
    done = subprocess.run(
        [sys.executable, str(ATTACKS / "load_cases.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=540,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ends = [line for line in lines if "end" in line]
    if done.returncode == 0:
        return ends, None
    how = f"exit status {done.returncode}\n{done.stderr[-2000:]}"
    # Before the first case and between two only good models are loaded.
    assert lines and "start" in lines[-1], how
    return ends, f"{lines[-1]['start']}: {how}"


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    """By case name. A case that killed the process has only "died"."""
    found: dict[str, dict[str, Any]] = {}
    names = [case.name for case in CASES]
    first = 0
    while first < len(names):
        ends, died = read_reports(["--from", str(first)])
        found.update((str(end["end"]), end) for end in ends)
        if died is None:
            break
        first += len(ends)
        found[names[first]] = {"died": died}
        first += 1
    return found


def verdict(case: cases.Case, seen: dict[str, Any]) -> str | None:
    """What is wrong about how the case ended; None: nothing."""
    if "died" in seen:
        return str(seen["died"])
    if seen["error"] is None:
        return "loaded"
    if seen["error"] not in case.expects:
        return f"raised {seen['error']}: {seen['message']}"
    if not any(word in seen["message"] for word in case.mentions):
        return f"names none of {case.mentions}: {seen['message']}"
    if not seen["message"].isascii() or not seen["message"].isprintable():
        return f"raw bytes in the message: {seen['message']!r}"
    if len(seen["message"]) > 500:
        return f"a message of {len(seen['message'])} characters"
    if seen["peak_kb"] > MAX_EXTRA_KB + 2 * seen["bytes"] / 1024:
        return f"took {seen['peak_kb']} KiB for {seen['bytes']} bytes"
    if seen["cpu_s"] > 1 + seen["bytes"] / 10e6:
        return f"took {seen['cpu_s']} s for {seen['bytes']} bytes"
    if seen["descriptors"] != 0 or seen["threads"] != 0:
        return f"left {seen['descriptors']} descriptors and {seen['threads']} threads"
    if not seen.get("good", True):
        return "a good model gave other tokens afterwards"
    return None


# Without the files, which are some 600 MB in all.
CASES = [replace(case, data=b"") for case in cases.all_cases()]
ROW_NAMES = sorted({case.row for case in CASES})


@pytest.mark.parametrize("row", ROW_NAMES)
def test_every_case_of_the_row_is_a_typed_error_that_names_the_field(
    row: str, reports: dict[str, dict[str, Any]]
) -> None:
    of_row = [case for case in CASES if case.row == row]
    assert of_row
    wrong = {case.name: bad for case in of_row if (bad := verdict(case, reports[case.name]))}
    assert not wrong, "\n".join(f"{name}: {bad}" for name, bad in wrong.items())


def test_the_rows_are_those_promised() -> None:
    promised = {*range(1, 40), 41, 42, 43, 44, *range(49, 65)}
    assert {int(row[2:]) for row in ROW_NAMES} == promised


def test_good_models_were_loaded_between_the_bad_ones(
    reports: dict[str, dict[str, Any]],
) -> None:
    assert sum("good" in seen for seen in reports.values()) >= 20


# ---- exhaustive damage --------------------------------------------------------------------------


def inspect_error(path: Path) -> str | None:
    try:
        sm._core.inspect_file(str(path))
    except sm.SmallMindError as error:
        assert type(error).__name__ in TYPED
        assert str(error).isascii() and str(error).isprintable()
        return str(error)
    return None


@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_every_prefix_of_the_header_is_refused(architecture: str, tmp_path: Path) -> None:
    """G-02; longest first, by truncating one file."""
    header = cases.base(architecture).header()
    path = tmp_path / "cut.gguf"
    path.write_bytes(header)
    for n in range(len(header) - 1, -1, -1):
        os.truncate(path, n)
        assert inspect_error(path) is not None, n


def flip(file: Any, bit: int) -> None:
    file.seek(bit // 8)
    byte = file.read(1)[0] ^ (1 << bit % 8)
    file.seek(bit // 8)
    file.write(bytes([byte]))
    file.flush()


@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_flipped_bits_of_the_header_give_an_error_or_a_working_model(
    architecture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """G-76: every 7th bit through the reader and every 97th through the engine; with --all all
    and every 5th. The C++ tests flip all bits of a smaller model."""
    good = cases.base(architecture)
    path = tmp_path / "flipped.gguf"
    path.write_bytes(good.to_bytes())
    n_bits = len(good.header()) * 8
    n_refused = 0
    with path.open("r+b") as file:
        inspected = range(0, n_bits, 1 if is_long(request) else 7)
        for bit in inspected:
            flip(file, bit)
            n_refused += inspect_error(path) is not None
            flip(file, bit)
        for bit in range(0, n_bits, 5 if is_long(request) else 97):
            flip(file, bit)
            try:
                sm.Engine(str(path), n_threads=1).close()
            except sm.SmallMindError as error:
                assert type(error).__name__ in TYPED, (bit, error)
            flip(file, bit)
    assert n_refused > len(inspected) / 5
    sm.Engine(str(path), n_threads=1).close()


# ---- templates ----------------------------------------------------------------------------------

INJECTIONS = (
    "{{ ''.__class__ }}", "{{ ''['__class__'] }}", "{{ ''|attr('__class__') }}",
    "{{ messages.__class__.__mro__ }}", "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}", "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}", "{{ lipsum.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}", "{{ config }}{{ config.items() }}",
    "{{ '%s'.__mod__ }}", "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__}'|format('') }}{{ ''.__class__ }}", "{{ ''.format.__self__.__class__ }}",
    "{{ ''.format_map({}).__class__ }}", "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}", "{{ strftime_now.__code__ }}", "{{ range.__class__ }}",
    "{{ dict.__base__ }}", "{{ messages.append('x') }}", "{{ messages.clear() }}",
    "{{ messages[0].update({'content': 'x'}) }}", "{{ messages[0].pop('content') }}",
    "{{ messages|map(attribute='__class__')|list }}{{ ''.__class__ }}",
    "{{ [1].__class__.__base__.__subclasses__() }}", "{{ (1).__class__ }}",
    "{{ true.__class__ }}", "{{ none.__class__ }}", "{{ ().__class__.__bases__[0] }}",
    "{{ {}.__class__ }}", "{{ caller.__globals__ }}", "{{ loop.__class__ }}",
    "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__class__ }}", "{% import 'os' as os %}{{ os }}",
    "{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% from 'x' import y %}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}", "{{ (messages|attr)('pop') }}",
)  # fmt: skip

BOMBS = {
    "G-46 parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "G-46 brackets": "{{ " + "[" * 100_000 + "]" * 100_000 + " }}",
    "G-46 ifs": "{% if 1 %}" * 12_000 + "{% endif %}" * 12_000,
    "G-46 filters": "{{ 1" + "|abs" * 30_000 + " }}",
    "G-46 signs": "{{ " + "-" * 100_000 + "1 }}",
    "G-47 loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "G-47 recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "G-48 product": "{{ 'x' * 200000000 }}",
    "G-48 doubling": "{% set ns = namespace(s='x') %}{% for i in range(40) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "G-48 join": "{{ ('x' * 10000)|join('y' * 10000) }}",
    "G-48 indent": "{{ ('\\n' * 100000)|indent(10000) }}",
    "G-48 center": "{{ 'x'|center(200000000) }}",
}


def engine_with_template(template: str, tmp_path: Path) -> sm.Engine:
    file = cases.base("llama").set("tokenizer.chat_template", gf.STRING, gf.string(template))
    path = tmp_path / "template.gguf"
    path.write_bytes(file.to_bytes())
    return sm.Engine(str(path), n_threads=1)


@pytest.mark.parametrize("template", INJECTIONS)
def test_template_reaches_no_attribute_of_a_python_object(template: str, tmp_path: Path) -> None:
    """G-45: an error, or a text in which nothing of Python shows; messages stay as they were."""
    messages = [{"role": "user", "content": "hello"}]
    with engine_with_template(template, tmp_path) as engine:
        try:
            with engine.chat_session(messages=messages) as chat:
                text = chat.render()
        except (sm.TemplateError, sm.ModelLimitError):
            text = ""
        for trace in ("<class", "class '", "built-in", "function", "module", "root:", "uid="):
            assert trace not in text
        assert messages == [{"role": "user", "content": "hello"}]
        assert engine.generate("the", max_tokens=1).finish_reason in ("length", "stop")


@pytest.mark.parametrize("name", BOMBS)
def test_template_that_wants_too_much_is_refused(name: str, tmp_path: Path) -> None:
    """G-46 ... G-48; the time is that of a slow machine under load."""
    with engine_with_template(BOMBS[name], tmp_path) as engine:
        begin = time.monotonic()
        with pytest.raises((sm.TemplateError, sm.ModelLimitError)):
            engine.chat([{"role": "user", "content": "hello"}], max_tokens=1)
        assert time.monotonic() - begin < 5
        assert engine.generate("the", max_tokens=1).finish_reason in ("length", "stop")


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight",
             "blk.1.ffn_down.weight", "output_norm.weight"]
)  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_poisoned_weights_fail_the_request_and_not_the_engine(
    name: str, value: float, tmp_path: Path
) -> None:
    """G-65"""
    good = cases.base("llama")
    tensor = good.tensor(name)
    # Else a block begins with its scale, an f16.
    half = b"\x00\x7e" if math.isnan(value) else b"\x00\x7c"
    bad = gf.number(gf.F32, value) if tensor.type == 0 else half
    # In every row of the embedding, so that any prompt meets it.
    step = tensor.dims[0] * 4 if name == "token_embd.weight" else len(tensor.data)
    data = bytearray(tensor.data)
    for at in range(0, len(data) - len(bad), step):
        data[at : at + len(bad)] = bad
    path = tmp_path / "poisoned.gguf"
    path.write_bytes(good.set_tensor(name, replace(tensor, data=bytes(data))).to_bytes())
    try:
        engine = sm.Engine(str(path), n_threads=1)
    except sm.ModelFormatError as error:
        assert name in str(error)
        return
    with engine:
        for _ in range(2):
            with pytest.raises(sm.InferenceError) as caught:
                engine.generate("the thing", max_tokens=4, temperature=0)
            assert caught.value.code == "NON_FINITE_LOGITS"


# ---- the file as a thing ------------------------------------------------------------------------


@pytest.fixture
def good_path(tmp_path: Path) -> Path:
    path = tmp_path / "good.gguf"
    path.write_bytes(cases.base("llama").to_bytes())
    return path


def answer(engine: sm.Engine) -> list[int]:
    return list(engine.generate("the other", max_tokens=8, temperature=0).token_ids)


def test_file_truncated_or_replaced_after_load_changes_nothing(good_path: Path) -> None:
    """G-68, G-69: the weights are a private copy."""
    with sm.Engine(str(good_path), n_threads=1) as engine:
        before = answer(engine)
        os.truncate(good_path, 100)
        assert answer(engine) == before
        good_path.unlink()
        good_path.write_bytes(b"something else")
        assert answer(engine) == before


def test_file_truncated_while_it_loads_is_an_error_or_a_whole_model(good_path: Path) -> None:
    """G-68: at many moments of the load; never a signal."""
    data = good_path.read_bytes()
    kinds = set()
    for delay_us in range(0, 3000, 150):
        good_path.write_bytes(data)
        begin = threading.Event()

        def cut(delay: float = delay_us / 1e6, begin: threading.Event = begin) -> None:
            begin.wait()
            time.sleep(delay)
            os.truncate(good_path, 5000)

        thread = threading.Thread(target=cut)
        thread.start()
        try:
            begin.set()
            sm.Engine(str(good_path), n_threads=1).close()
            kinds.add("loaded")
        except sm.SmallMindError as error:
            kinds.add(type(error).__name__)
        finally:
            thread.join()
    assert kinds <= {"loaded", "ModelFormatError", "ModelIOError"}


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """G-70"""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path, tmp_path / "loop", tmp_path / "socket"):
            begin = time.monotonic()
            with pytest.raises(sm.ModelIOError):
                sm.Engine(str(path))
            assert time.monotonic() - begin < 1
    with pytest.raises(sm.ModelIOError):
        sm.Engine("/dev/zero")
    with pytest.raises(sm.ModelNotFoundError):
        sm.Engine(str(tmp_path / "absent"))


def test_terabyte_of_nothing_is_refused_or_harmless(tmp_path: Path) -> None:
    """G-70: sparse files, one of zeros, one with a good model at its start."""
    zeros = tmp_path / "zeros.gguf"
    zeros.touch()
    os.truncate(zeros, 2**40)
    with pytest.raises(sm.ModelFormatError, match="magic"):
        sm.Engine(str(zeros))
    padded = tmp_path / "padded.gguf"
    padded.write_bytes(cases.base("llama").to_bytes())
    os.truncate(padded, 2**40)
    with sm.Engine(str(padded), n_threads=1) as engine:
        assert len(answer(engine)) > 0


HOSTILE_TEXT = "\x1b[2J\x1b]0;title\x07\u202ereversed\r\nERROR fake line <script>alert(1)</script>"


def test_hostile_text_is_escaped_wherever_people_see_it(tmp_path: Path) -> None:
    """G-71"""
    file = cases.base("llama")
    for key in ("general.name", "general.author", "general.description"):
        file = file.set(key, gf.STRING, gf.string(HOSTILE_TEXT))
    path = tmp_path / "hostile.gguf"
    path.write_bytes(file.to_bytes())
    seen = [repr(sm._core.inspect_file(str(path)))]
    with sm.Engine(str(path), n_threads=1) as engine:
        seen.append(repr(engine))
    shown = subprocess.run(
        [sys.executable, "-m", "smallmind.cli", "inspect", str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    seen.append(shown.stdout)
    for text in seen:
        assert not {"\x1b", "\x07", "\u202e", "\r"} & set(text)
        assert "\nERROR" not in text


# ---- many at once -------------------------------------------------------------------------------


def test_sixteen_threads_load_bad_files_and_one_a_good_one(tmp_path: Path) -> None:
    """G-80"""
    bad = [case for case in cases.all_cases() if case.row in ("G-02", "G-14", "G-61", "G-63")]
    good = tmp_path / "good.gguf"
    good.write_bytes(cases.base("llama").to_bytes())
    with sm.Engine(str(good), n_threads=1) as engine:
        expected = answer(engine)
    wrong: list[str] = []

    def load_bad(index: int) -> None:
        path = tmp_path / f"bad-{index}.gguf"
        for case in bad[index::64][:12]:
            path.write_bytes(case.data)
            try:
                sm.Engine(str(path), n_threads=1).close()
                wrong.append(f"{case.name} loaded")
            except sm.SmallMindError as error:
                if type(error).__name__ not in case.expects:
                    wrong.append(f"{case.name}: {error!r}")

    threads = [threading.Thread(target=load_bad, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with sm.Engine(str(good), n_threads=1) as engine:
            assert answer(engine) == expected
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def test_load_cancelled_at_every_moment_returns_at_once(tmp_path: Path) -> None:
    """G-80: by the progress call that comes n-th, and by a token."""
    good = tmp_path / "good.gguf"
    good.write_bytes(cases.base("llama").to_bytes())

    class Stop(Exception):
        pass

    for n in range(4):
        calls = []

        def stop(*_: object, n: int = n, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) > n:
                raise Stop

        try:
            sm.Engine(str(good), n_threads=1, progress=stop).close()
            assert len(calls) <= n  # it was ready before the n-th call
        except Stop:
            pass
    for delay_us in range(0, 2000, 200):
        token = sm.CancellationToken()
        timer = threading.Timer(delay_us / 1e6, token.cancel)
        timer.start()
        try:
            sm.Engine(str(good), n_threads=1, cancel=token).close()
        except sm.CancelledError:
            pass
        timer.join()
    token = sm.CancellationToken()
    token.cancel()
    begin = time.monotonic()
    with pytest.raises(sm.CancelledError):
        sm.Engine(str(good), n_threads=1, cancel=token)
    assert time.monotonic() - begin < 0.1
