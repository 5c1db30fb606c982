"""How a process that is neroli's own gets memory: what is freed is kept for the next batch."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
_LARGEST = 2**30
"""Bytes."""


def keep_freed_memory() -> None:
    """Make glibc keep large blocks that are freed, rather than fetch new ones for every batch.

    By default it returns blocks of 32 MB and more to the system at once, and fresh pages are
    cleared at their first touch: a network on a CPU whose maps are that large spends up to half its
    time so. Only for processes of one's own: the setting is of the whole process. Elsewhere than on
    glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST)
