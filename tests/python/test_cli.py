"""The `smallmind` command as a user meets it: a process of its own, on the real default model."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest

import smallmind as sm

COMMAND = [sys.executable, "-m", "smallmind.cli"]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 180}
    settings.update({"stdin": subprocess.DEVNULL} if "input" not in options else {})
    return subprocess.run([*COMMAND, *arguments], **{**settings, **options})  # type: ignore[call-overload]


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*COMMAND, *arguments], {**os.environ, "TERM": "xterm"})
        self.seen = ""

    def wait_for(self, pattern: str, timeout: float = 60) -> str:
        """Reads until `pattern` is in what came since the last call; returns that."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if not self._read(0.2):
                raise AssertionError(f"ended without {pattern!r}: {self.seen!r}")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def _read(self, timeout: float) -> bool:
        if not select.select([self.fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux says EIO when the other side has gone
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self, timeout: float = 60) -> int:
        """Reads to the end and returns the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(0.2):
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).parent / "smallmind"
    done = subprocess.run([str(script), "version"], capture_output=True, text=True)
    assert done.stdout.strip() == sm.__version__


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("demo", "generate", "chat", "bench", "inspect", "pull"):
        assert command in done.stdout


def test_without_typer_the_extra_is_named() -> None:
    """MissingExtraError's words, without a traceback."""
    code = (
        "import sys; sys.modules['typer'] = None\n"
        "from smallmind.cli import main; sys.argv = ['smallmind', 'demo']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "MissingExtraError" in done.stderr and "smallmind[demo]" in done.stderr
    assert "Traceback" not in done.stderr


def test_pull_prints_the_path(smollm2: Path) -> None:
    done = run("pull", "smollm2-135m-instruct")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.stat().st_size == os.path.getsize(smollm2)


def test_pull_lists_what_it_knows() -> None:
    done = run("pull")
    assert done.returncode == 0
    assert "smollm2-135m-instruct" in done.stdout and "gemma-3-270m" in done.stdout


def test_pull_of_unknown_name_fails_with_the_known() -> None:
    done = run("pull", "nothing")
    assert done.returncode == 1
    assert "InvalidArgumentError" in done.stderr and "smollm2-135m-instruct" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_shows_metadata_and_tensors(smollm2: Path) -> None:
    reader = gguf.GGUFReader(smollm2)
    done = run("inspect", str(smollm2))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for key in reader.fields:
        if not key.startswith("GGUF."):
            assert any(line.startswith(key + " ") for line in lines), key
    for tensor in reader.tensors:
        row = next(line for line in lines if line.startswith(tensor.name + " "))
        assert tensor.tensor_type.name in row.split()
    assert len(done.stdout) < 100_000  # 49,152 tokens are cut, not listed


def test_inspect_escapes_what_a_terminal_would_obey(tmp_path: Path) -> None:
    """G-71: ANSI, bidirectional overrides, a newline that forges a line."""
    path = tmp_path / "hostile.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "a\x1b[2Jb\u202ec\nforged.key  str  value\x07\x9b")
    writer.add_string("general.description", "x" * 100_000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = run("inspect", str(path))
    assert done.returncode == 0, done.stderr
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", done.stdout)
    assert not any(line.startswith("forged.key") for line in done.stdout.splitlines())
    assert len(done.stdout) < 5_000


@pytest.mark.parametrize("command", ["inspect", "generate"])
def test_missing_file_is_one_line(command: str) -> None:
    arguments = ["inspect", "/nowhere.gguf"]
    if command == "generate":
        arguments = ["generate", "x", "--model", "/nowhere.gguf"]
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "ModelNotFoundError (MODEL_NOT_FOUND)" in done.stderr


def test_generate_streams_the_text(smollm2: Path) -> None:
    arguments = ("--model", str(smollm2), "--temperature", "0", "--max-tokens", "5")
    done = run("generate", "The capital of France is", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" Paris")  # of fp32 arithmetic over the same weights
    assert "[length: 5 + 5 tokens" in done.stderr


def test_generate_reads_standard_input(smollm2: Path) -> None:
    arguments = ("--model", str(smollm2), "--temperature", "0", "--max-tokens", "5")
    done = run("generate", "-", *arguments, input="The capital of France is")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" Paris")


def test_generate_out_of_range_names_the_option(smollm2: Path) -> None:
    done = run("generate", "x", "--model", str(smollm2), "--temperature", "nan")
    assert done.returncode == 1
    assert "InvalidArgumentError" in done.stderr and "temperature" in done.stderr


def test_generate_into_a_closed_pipe_is_silent(smollm2: Path) -> None:
    command = [*COMMAND, "generate", "Once", "--model", str(smollm2), "--max-tokens", "200"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 141
    assert "Traceback" not in said and "BrokenPipe" not in said


def test_generate_ends_at_interrupt(smollm2: Path) -> None:
    """P-01: Ctrl-C in the middle of a text."""
    arguments = ("--model", str(smollm2), "--max-tokens", "4000")
    terminal = Terminal("generate", "A long story:", *arguments)
    terminal.wait_for(r"\w+ \w+ \w+")
    begin = time.monotonic()
    terminal.type("\x03")
    assert terminal.end() == 130
    assert time.monotonic() - begin < 3  # the interpreter's own end included


CLOSED_STDIN = ["sh", "-c", 'exec "$@" <&-', "sh"]


def check_demo_table(out: str) -> None:
    rows = {
        line.split()[1]: line.split() for line in out.splitlines() if re.match(r"thread \d ", line)
    }
    assert sorted(rows) == ["1", "2", "3", "4", "5"]
    for number in "1234":
        assert rows[number][-1] in ("stop", "length")
        assert int(rows[number][2]) >= 1
    assert rows["5"][-1] == "cancelled"
    for figure in ("together", "cancel ", "memory", "load"):
        assert re.search(rf"^{figure}\s+\d+\.\d+", out, re.MULTILINE), figure


def test_demo_without_terminal_and_with_stdin_closed(smollm2: Path) -> None:
    command = [*CLOSED_STDIN, *COMMAND, "demo", "--model", str(smollm2), "--max-tokens", "48"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    check_demo_table(done.stdout)
    live = re.findall(r"^\[thread ([1-4])\]", done.stdout, re.MULTILINE)
    assert set(live) == {"1", "2", "3", "4"}
    assert live != sorted(live)  # the answers came at the same time, not one after the other
    assert "\x1b" not in done.stdout


def test_demo_on_a_terminal(smollm2: Path) -> None:
    terminal = Terminal("demo", "--model", str(smollm2), "--max-tokens", "24")
    out = terminal.wait_for(r"load +\d+\.\d+ s", timeout=120)
    assert terminal.end() == 0
    assert "thread 1" in out and "cancelled" in out


def test_chat_answers_each_line_in_one_conversation(smollm2: Path) -> None:
    arguments = ("--model", str(smollm2), "--temperature", "0", "--max-tokens", "24")
    done = run("chat", *arguments, input="Name a fruit.\n\nAnd another one.\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n")) >= 3
    prompts = [int(n) for n in re.findall(r"\[\w+: (\d+) \+ \d+ tokens", done.stderr)]
    assert len(prompts) == 2  # the empty line is no message
    assert prompts[1] > prompts[0]  # the second turn holds the first


def test_chat_with_stdin_closed_says_so(smollm2: Path) -> None:
    command = [*CLOSED_STDIN, *COMMAND, "chat", "--model", str(smollm2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "standard input is closed" in done.stderr


def test_interrupt_stops_the_answer_and_not_the_chat(smollm2: Path) -> None:
    arguments = ("--model", str(smollm2), "--max-tokens", "1000", "--temperature", "0")
    terminal = Terminal("chat", *arguments)
    terminal.wait_for("> ")
    terminal.type("Write a very long story about the sea.\n")
    terminal.wait_for(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+ \w+ \w+ \w+")
    terminal.type("\x03")
    terminal.wait_for(r"\[cancelled: ", timeout=5)
    terminal.wait_for("> ", timeout=5)
    terminal.type("What is the capital of France?\n")
    terminal.wait_for(r"\[(stop|length): ", timeout=60)
    terminal.wait_for("> ", timeout=5)
    terminal.type("\x03")  # at the prompt: a new prompt
    terminal.wait_for("> ", timeout=5)
    terminal.type("\x04")
    assert terminal.end() == 0


def test_generated_text_cannot_drive_the_terminal() -> None:
    """A model's output is as little trusted as its file."""
    from smallmind.cli.output import printable

    assert printable("a\x1b[31mb\u202ec\r\x9b\x00") == "a\\x1b[31mb\\u202ec\\x0d\\x9b\\x00"
    assert printable("Zürich 東京 👩‍👩‍👧\n\ttab") == "Zürich 東京 👩‍👩‍👧\n\ttab"
