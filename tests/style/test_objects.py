"""What our object files and the module ask of the world (P-11, B1, G19; rule 10 of the style)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Nothing in the core ends the process or prints (P-11); mangled names, as nm shows them.
# std::terminate is not among them: compilers call it to clean up after noexcept functions.
FORBIDDEN = re.compile(
    r"^(abort|exit|_exit|_Exit|quick_exit|__assert_fail|__assert"
    r"|(__)?v?(f|d|s|sn|as)?w?printf(_chk)?|puts|fputs|putchar|fputc|fwrite|perror"
    r"|_ZSt4cout|_ZSt4cerr|_ZSt4clog|stdout|stderr|system|popen|execve|fork)$"
)
ALLOWED_LIBRARIES = re.compile(
    r"^(libstdc\+\+\.so\.6|libm\.so\.6|libgcc_s\.so\.1|libc\.so\.6|ld-linux-x86-64\.so\.2"
    r"|libpthread\.so\.0)$"
)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def core_objects(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.o") if "smallmind_core.dir" in path.as_posix())


def undefined(path: Path) -> Iterator[str]:
    for line in output("nm", "-u", str(path)).splitlines():
        yield line.split()[-1].split("@")[0]


def test_core_objects_end_nothing_and_print_nothing(objects: Path) -> None:
    files = core_objects(objects)
    assert len(files) >= 20, f"{objects} holds {len(files)} object files of the core"
    found = [
        f"{path.name}: {symbol}"
        for path in files
        for symbol in undefined(path)
        if FORBIDDEN.match(symbol)
    ]
    assert not found, "\n".join(found)


def test_the_check_sees_a_forbidden_symbol(tmp_path: Path) -> None:
    """The gate above is worth nothing if nm's output is misread."""
    source = tmp_path / "bad.cc"
    source.write_text(
        '#include <cstdio>\n#include <cstdlib>\nvoid f() { std::puts("x"); std::abort(); }\n'
    )
    subprocess.run(["g++", "-c", str(source), "-o", str(tmp_path / "bad.o")], check=True)
    found = {symbol for symbol in undefined(tmp_path / "bad.o") if FORBIDDEN.match(symbol)}
    assert found == {"puts", "abort"}


FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")


def fetches(path: Path, function: str, instruction: str) -> list[int]:
    """How many fetches each instance of a function template of ours holds."""
    found: list[int] = []
    inside = False
    for line in output("objdump", "-d", "-C", "--no-show-raw-insn", str(path)).splitlines():
        if match := FUNCTION.match(line):
            # Of a function in parts ("[clone .cold]") the first is what loops.
            inside = re.search(function, match.group(1)) is not None and line[-3] != "]"
            found += [0] * inside
        elif inside and instruction in line:
            found[-1] += 1
    return found


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512_bf16"])
def test_attention_fetches_what_comes_next(objects: Path, isa: str) -> None:
    """g++ drops a call of a function that does nothing but fetch: once, three of four were gone.

    A block fetches one line of keys at least, and lines of both pages of values in each of three
    loops: all keys, the same keys for every query, other ones for each.
    """
    (path,) = [p for p in core_objects(objects) if p.name == f"kernels_{isa}.cc.o"]
    found = fetches(path, r"^void smallmind::kernel::attend_block<", "prefetch")
    assert found and min(found) >= 7, found


def test_tile_products_fetch_the_rows_that_they_write(objects: Path) -> None:
    (path,) = [p for p in core_objects(objects) if p.name == "kernels_avx512_amx.cc.o"]
    found = fetches(path, r"TileProducts<.*RowsOut<.*>::multiply_tile<", "prefetcht0")
    assert found and min(found) > 0, found


def module_path() -> Path:
    from smallmind import _core

    assert _core.__file__ is not None
    return Path(_core.__file__)


def test_the_module_needs_only_the_language_runtimes() -> None:
    dynamic = output("readelf", "-d", str(module_path()))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert "libc.so.6" in needed
    foreign = [library for library in needed if not ALLOWED_LIBRARIES.match(library)]
    assert not foreign, f"the module needs {foreign}"
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


def test_the_module_exports_none_of_our_functions() -> None:
    """Two extension modules in one process must not find each other's functions."""
    exported = [
        line.split()[-1]
        for line in output("nm", "-D", "-C", "--defined-only", str(module_path())).splitlines()
    ]
    assert "PyInit__core" in exported
    assert not [name for name in exported if "smallmind" in name or "pybind11" in name]


def test_the_module_is_stripped_and_names_no_machine() -> None:
    assert ".symtab" not in output("readelf", "-S", "-W", str(module_path()))
    strings = module_path().read_bytes()
    for folder in (b"/home/", b"/tmp/", b"/work/", b"/root/"):
        assert folder not in strings


WEAK = re.compile(r"^[0-9a-f]* *([VvWwu]) (.+)$")


def leaked(path: Path, isa: str) -> list[str]:
    """Weak definitions that another ISA's file could define too: the linker keeps any one."""
    found = []
    for line in output("nm", "-C", "--defined-only", str(path)).splitlines():
        match = WEAK.match(line.strip())
        if match and isa not in match.group(2).lower():
            found.append(match.group(2))
    return found


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_weak_symbols_of_isa_files_name_their_isa(debug_objects: Path, isa: str) -> None:
    """Else the linker may keep an AVX-512 copy of a shared function, and SIGILL follows (P-16)."""
    files = [p for p in debug_objects.rglob("*.o") if p.name.startswith(f"kernels_{isa}")]
    assert files, f"{debug_objects} holds no kernels_{isa}*.o"
    for path in files:
        found = leaked(path, isa)
        assert not found, f"{path.name} defines {len(found)}: {found[:5]}"


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_isa_files_run_nothing_before_the_check(debug_objects: Path, isa: str) -> None:
    """A static constructor compiled for AVX-512 would run on every machine at load."""
    for path in debug_objects.rglob("*.o"):
        if path.name.startswith(f"kernels_{isa}"):
            assert ".init_array" not in output("readelf", "-S", "-W", str(path)), path.name


def test_a_planted_shared_function_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "kernels_avx2.cc"
    source.write_text(
        "inline float shared(float x) { return x * 2; }\n"
        "namespace avx2 { inline float own(float x) { return shared(x); } }\n"
        "float use(float x) { return avx2::own(x); }\n"
    )
    target = tmp_path / "kernels_avx2.o"
    subprocess.run(["g++", "-O0", "-c", str(source), "-o", str(target)], check=True)
    assert leaked(target, "avx2") == ["shared(float)"]
