"""What a process holds on to: memory that tensors on CPU gave back, and pages of mapped files that it has read."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def _glibc() -> Any:
    """The C library if it is glibc, else `None`."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def keep_freed_memory() -> bool:
    """
    Let the process keep memory that tensors free, for the next step to use.

    By default glibc returns most of a backward pass to the system, which hands it out again page by page, zeroed: a sixth
    of the time of a small model's training step. The peak is the same, only it is held until the process ends. A value in
    the environment (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`) is left as it is.

    Returns:
        Whether it was set; `False` with another C library or with a value in the environment.
    """
    library = _glibc()
    if library is None or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return False
    return bool(library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(library.mallopt(_MMAP_THRESHOLD, 2**30))


def release_freed_memory() -> bool:
    """Give freed memory back to the system now, so that resident memory is what is in use; `False` if that is not known."""
    library = _glibc()
    if library is None:
        return False
    library.malloc_trim(0)
    return True


def release_mapped_files(paths: Iterable[str | Path]) -> int:
    """
    Let go of the pages of memory-mapped files that were read; arrays in them stay valid.

    What a process has read of a mapped file counts as resident until the system runs short of memory: after one epoch that
    is the whole dataset. Afterwards the pages are still in the system's cache, from where the next access takes them.

    Args:
        paths: files that are mapped for reading. Writable maps are left alone, since private changes would be lost.

    Returns:
        Bytes of the maps that were released; 0 on other systems than Linux.
    """
    maps = Path("/proc/self/maps")
    wanted = {os.path.realpath(path) for path in paths}
    if not wanted or not sys.platform.startswith("linux") or not maps.exists():
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    released = 0
    for line in maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        addresses, rights, *_, name = [*line.split(None, 5), ""][:6]
        if name in wanted and "w" not in rights:
            first, end = (int(address, 16) for address in addresses.split("-"))
            released += end - first if advise(first, end - first, mmap.MADV_DONTNEED) == 0 else 0
    return released
