"""How the C library's allocator deals with what arrays give back, in processes from which workers are forked."""

from __future__ import annotations

import ctypes

_WAYS = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 26), (-8, 1))
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX."""


def keep_in_one_heap() -> None:
    """Tell the allocator to keep what arrays give back: getting it from the system anew costs a third of the time.

    All threads are to share one heap, so this comes before the first of them: those that a library starts when it is
    imported have heaps of their own, which the threads of workers would inherit. What it sets is set for good;
    processes that are not ours alone, a kernel or napari, have `streaming.sockets.keep_memory`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _WAYS:
            mallopt(parameter, value)
