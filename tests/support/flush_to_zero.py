"""Sets the floating-point control word of the calling thread, as a library built with fast-math
does when it is imported: subnormal results become zero (FTZ), subnormal inputs count as zero (DAZ).
"""

from __future__ import annotations

import ctypes
import mmap

FTZ, DAZ = 0x8000, 0x0040


def _function(code: bytes) -> ctypes._CFunctionType:
    """Machine code (x86-64, System V) as a function of a pointer to 32 bits."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    _pages.append(page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(address)


_pages: list[mmap.mmap] = []
_load = _function(b"\x0f\xae\x17\xc3")  # ldmxcsr [rdi]; ret
_store = _function(b"\x0f\xae\x1f\xc3")  # stmxcsr [rdi]; ret


def control_word() -> int:
    """MXCSR without its sticky flags."""
    word = ctypes.c_uint32()
    _store(ctypes.byref(word))
    return word.value & ~0x3F


def set_control_word(word: int) -> None:
    _load(ctypes.byref(ctypes.c_uint32(word)))


def set_in_this_thread() -> None:
    set_control_word(control_word() | FTZ | DAZ)
