"""What the C library does with memory that tensors on CPU give back."""

from __future__ import annotations

import ctypes
import os
import sys
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
