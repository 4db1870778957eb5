"""The memory that a worker and its conductor share, where the worker notes what it is doing."""

from __future__ import annotations

import mmap
import struct

_NOTE = struct.Struct("<qqd")
_COUNT = struct.Struct("<q")
STATUS_SIZE = _COUNT.size + _NOTE.size
_LOOKS = 100


class Status:
    """The memory in which a worker notes what it is doing; its conductor reads it also when the worker is dead.

    A count before the note is odd while the note is written, so that no one takes half of one for a whole.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, STATUS_SIZE)
        self._count = 0

    def note(self, unit: int, step: int, since: float) -> None:
        """Note what is done now: unit, step (-1 where there is none), and when it began, by the monotonic clock."""
        _COUNT.pack_into(self._memory, 0, self._count + 1)
        _NOTE.pack_into(self._memory, _COUNT.size, unit, step, since)
        self._count += 2
        _COUNT.pack_into(self._memory, 0, self._count)

    def read(self) -> tuple[int, int, float]:
        """Return unit, step and since when; -1 where it does nothing, or died while it noted what."""
        for _ in range(_LOOKS):
            before = _COUNT.unpack_from(self._memory, 0)[0]
            unit, step, since = _NOTE.unpack_from(self._memory, _COUNT.size)
            if before == 0:
                break  # nothing was noted yet
            if before % 2 == 0 and before == _COUNT.unpack_from(self._memory, 0)[0]:
                return unit, step, since
        return -1, -1, 0.0

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()
