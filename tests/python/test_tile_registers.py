"""Tile registers (AMX) are the operating system's to give; the tokens do not depend on them.

docs/threading.md says when a process asks for them, and what happens where it may not have them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from instruction_sets import HERE

PROBE = """
import ctypes, json, sys

libc = ctypes.CDLL(None, use_errno=True)


def may_use_tiles():
    allowed = ctypes.c_ulong(0)
    assert libc.syscall(158, 0x1022, ctypes.byref(allowed)) == 0  # ARCH_GET_XCOMP_PERM
    return bool(allowed.value >> 18 & 1)


class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


if sys.argv[2] == "small":
    room = ctypes.create_string_buffer(8192)
    stack = Stack(ctypes.addressof(room), 0, 8192)
    assert libc.sigaltstack(ctypes.byref(stack), None) == 0, ctypes.get_errno()

import smallmind

asked_by_import = may_use_tiles()
with smallmind.Engine(sys.argv[1], n_threads=2) as engine:
    many = engine.generate_many(
        [f"Number {i} is" for i in range(16)], max_tokens=8, temperature=0, ignore_eos=True
    )
    found = {"isa": engine.info.isa, "import": asked_by_import, "load": may_use_tiles(),
             "texts": [result.text for result in many]}
print(json.dumps(found))
"""


def run(model: Path, stack: str = "none", isa: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(model), stack],
        env={**os.environ, "SMALLMIND_ISA": isa},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if "avx512_amx" in HERE:

    def test_the_first_load_asks_for_them_and_a_refusal_changes_nothing(smollm2: Path) -> None:
        given = run(smollm2)
        assert (given["isa"], given["import"], given["load"]) == ("avx512_amx", False, True)
        # A stack for signals that has no room for them makes the system refuse.
        refused = run(smollm2, stack="small")
        assert (refused["isa"], refused["load"]) == ("avx512", False)
        with pytest.raises(AssertionError, match="SMALLMIND_ISA: 'avx512_amx' is not"):
            run(smollm2, stack="small", isa="avx512_amx")
        unasked = run(smollm2, isa="avx512_bf16")
        assert (unasked["isa"], unasked["load"]) == ("avx512_bf16", False)
        assert given["texts"] == refused["texts"] == unasked["texts"]

else:
    print("not run here: tile registers (the processor lacks AMX)")
