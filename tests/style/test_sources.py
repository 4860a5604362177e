"""Our sources keep the shape that docs/architecture.md promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT

# A folder includes only itself and those before it.
FOLDERS = (
    "base",
    "gguf",
    "quant",
    "tokenizer",
    "kernels",
    "model",
    "serving",
    "sampling",
    "engine",
)
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
GENERATED = {"cpp/src/tokenizer/unicode_tables.cc"}

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--", *patterns],
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [path for name in listed.split("\0") if name and (path := ROOT / name).exists()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CORE = tracked("cpp/src/*.h", "cpp/src/*.cc")
PUBLIC = tracked("cpp/include/*.h")
BINDINGS = tracked("bindings/*.h", "bindings/*.cc")
CPP_TESTS = tracked("tests/cpp/*.h", "tests/cpp/*.cc", "tests/support/cpp/*")
PYTHON = tracked("python/*.py", "tests/*.py")
OURS = [p for p in [*CORE, *PUBLIC, *BINDINGS, *CPP_TESTS, *PYTHON] if name_of(p) not in GENERATED]


def includes(path: Path) -> list[tuple[str, str]]:
    return INCLUDE.findall(path.read_text())


def test_there_are_sources_to_check() -> None:
    assert len(CORE) >= 20 and len(PUBLIC) >= 5 and len(PYTHON) >= 5
    assert {p.parent.relative_to(ROOT / "cpp/src").parts[0] for p in CORE} == set(FOLDERS)


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_includes_follow_the_folder_order(path: Path) -> None:
    own = path.relative_to(ROOT / "cpp/src").parts[0]
    allowed = {"smallmind", *FOLDERS[: FOLDERS.index(own) + 1]}
    for quote, target in includes(path):
        if quote == '"':
            top = target.split("/")[0]
            assert top in allowed, f"{name_of(path)} includes {target}, which stands after {own}"


@pytest.mark.parametrize("path", PUBLIC, ids=name_of)
def test_the_contract_includes_only_itself(path: Path) -> None:
    for quote, target in includes(path):
        assert quote == "<" or target.startswith("smallmind/"), f"{name_of(path)}: {target}"


@pytest.mark.parametrize("path", BINDINGS, ids=name_of)
def test_bindings_see_only_the_contract(path: Path) -> None:
    here = {other.name for other in BINDINGS}
    for quote, target in includes(path):
        seen = quote == "<" or target.startswith("smallmind/") or target in here
        assert seen, f"{name_of(path)} includes {target}: the contract is cpp/include/smallmind"


@pytest.mark.parametrize("path", [*CORE, *PUBLIC], ids=name_of)
def test_the_core_knows_no_python(path: Path) -> None:
    for _, target in includes(path):  # B1
        assert "pybind11" not in target and target != "Python.h", name_of(path)


@pytest.mark.parametrize("path", [*CORE, *PUBLIC], ids=name_of)
def test_the_core_does_not_print_or_assert(path: Path) -> None:
    banned = {"iostream", "cstdio", "stdio.h", "cassert", "assert.h", "print"}  # B38, P-11
    found = banned & {target for _, target in includes(path)}
    assert not found, f"{name_of(path)} includes {', '.join(found)}"


@pytest.mark.parametrize("path", [p for p in OURS if p.suffix == ".h"], ids=name_of)
def test_headers_open_with_pragma_once(path: Path) -> None:
    code = [line for line in path.read_text().splitlines() if line and not line.startswith("//")]
    assert code[0] == "#pragma once", name_of(path)


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_files_are_short(path: Path) -> None:
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= MAX_FILE_LINES, f"{name_of(path)} has {n_lines} lines"


def test_generated_files_exist() -> None:
    for name in GENERATED:  # an exemption for a file that is gone is a mistake
        assert (ROOT / name).exists(), name


# The lock annotations of mutex.h are the only macros (rule 11).
LOCK_MACROS = re.compile(
    r"^(CAPABILITY|SCOPED_CAPABILITY|GUARDED_BY|PT_GUARDED_BY|REQUIRES|ACQUIRE|RELEASE|TRY_ACQUIRE"
    r"|EXCLUDES|RETURN_CAPABILITY|ASSERT_CAPABILITY|NO_THREAD_SAFETY_ANALYSIS"
    r"|SMALLMIND_\w+)$"
)


@pytest.mark.parametrize("path", [*CORE, *PUBLIC], ids=name_of)
def test_macros_are_only_the_lock_annotations(path: Path) -> None:
    for macro in re.findall(r"^\s*#\s*define\s+(\w+)", path.read_text(), re.MULTILINE):
        in_place = path.parent.name == "base" and LOCK_MACROS.match(macro)
        assert in_place, f"{name_of(path)} defines {macro}"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_intrinsics_stay_in_kernels_and_quant(path: Path) -> None:
    intrinsics = {"immintrin.h", "x86intrin.h", "emmintrin.h", "smmintrin.h", "tmmintrin.h"}
    own = path.relative_to(ROOT / "cpp/src").parts[0]
    used = intrinsics & {target for _, target in includes(path)}
    # base/ holds the one place that sets the rounding mode of compute threads.
    assert not used or own in ("kernels", "quant", "base"), f"{name_of(path)}: {used}"


def only_code(text: str) -> str:
    """The same lines with comments, literals and directives blanked, so that braces count."""
    pattern = re.compile(
        r'R"(\w*)\(.*?\)\1"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'',
        re.DOTALL,
    )
    text = pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    preprocessor = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
    return preprocessor.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


CONTROL = re.compile(r"\b(if|for|while|switch|catch|do|else|try)\b")
TYPE_OR_SPACE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")


def cpp_functions(text: str) -> list[tuple[int, int]]:
    """(first line, number of lines) of each function body, the header line included."""
    found = []
    stack: list[tuple[str, int]] = []
    head = ""
    line = head_line = 1
    for char in only_code(text):
        if char == "{":
            is_function = ")" in head and not TYPE_OR_SPACE.search(
                re.sub(r"\(.*", "", head, flags=re.DOTALL)
            )
            outermost = all(kind != "function" for kind, _ in stack)
            kind = (
                "function"
                if is_function and outermost and not CONTROL.match(head.strip())
                else "other"
            )
            stack.append((kind, head_line))
            head = ""
        elif char == "}":
            if stack:
                kind, start = stack.pop()
                if kind == "function":
                    found.append((start, line - start + 1))
            head = ""
        elif char == ";":
            head = ""
        else:
            if not head.strip():
                head_line = line + (char == "\n")
            head += char
        line += char == "\n"
    return found


def test_function_counter_counts() -> None:
    """The check below is worth nothing if it finds no functions."""
    body = "\n".join(f"  x = {i};  // }}" for i in range(70))
    one_line = "struct B {\n  int f() const { return '{'; }\n};"
    text = f"namespace a {{\n{one_line}\nvoid g(int x) {{\n{body}\n}}\n}}\n"
    assert cpp_functions(text) == [(3, 1), (5, 72)]


@pytest.mark.parametrize("path", [p for p in OURS if p.suffix in (".cc", ".h")], ids=name_of)
def test_functions_are_short(path: Path) -> None:
    text = path.read_text()
    long = [f"line {at}: {n} lines" for at, n in cpp_functions(text) if n > MAX_FUNCTION_LINES]
    assert not long, f"{name_of(path)}: {'; '.join(long)}"


def python_functions(path: Path) -> list[tuple[str, int]]:
    import ast

    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (node.name, node.end_lineno - node.body[0].lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, functions) and node.end_lineno is not None
    ]


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_functions_are_short(path: Path) -> None:
    # The signature is not counted: the sampling keywords are spelled out in it, one a line.
    long = [f"{name}: {n} lines" for name, n in python_functions(path) if n > MAX_FUNCTION_LINES]
    assert not long, f"{name_of(path)}: {'; '.join(long)}"


def test_nothing_speaks_of_the_machine_it_was_written_on() -> None:
    """Paths of one machine and private hosts have no place in what others build."""
    pattern = re.compile(
        r"(?<![\w.])/(work|home|root)/\w|\bfile:///opt|\b(10|192\.168)\.\d+\.\d+\.\d+"
    )
    found = []
    for path in tracked("."):
        if path.suffix in (".bin", ".gguf", ".png") or path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_model_or_binary_is_committed() -> None:
    large = [name_of(p) for p in tracked(".") if p.stat().st_size > 1_000_000]
    assert not large
    assert not tracked("*.gguf", "*.safetensors", "*.so", "*.whl")


def test_sources_are_listed_one_by_one() -> None:
    """A glob in CMake picks up files by accident, and misses new ones until it runs again."""
    for path in tracked("*CMakeLists.txt", "*.cmake"):
        assert not re.search(r"\bGLOB(_RECURSE)?\b", path.read_text()), name_of(path)
    for source in [p for p in CORE if p.suffix == ".cc"]:
        folder = ROOT / "cpp/src" / source.relative_to(ROOT / "cpp/src").parts[0]
        listed = (folder / "CMakeLists.txt").read_text()
        entry = source.relative_to(folder).as_posix()
        assert re.search(rf"(?<![\w/]){re.escape(entry)}\b", listed), (
            f"{name_of(source)} is not built"
        )
