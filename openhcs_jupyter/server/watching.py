"""Wakes the server when a journal grows: Linux's inotify, which Python's standard library does not have."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path

from openhcs_jupyter.server.accounts import Account, acting_as

_MODIFY, _CREATE, _ONLY_FOLDERS = 0x2, 0x100, 0x1000000
_MOST_BYTES = 1 << 16


class Watch:
    """Watches the folders of jobs and runs. Where the system does not watch, nothing is told.

    It says only that there may be news: whoever is woken looks for them as it does without.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._file: int = self._library.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._watched: dict[Path, int] = {}

    def fileno(self) -> int:
        """Return what is polled; -1 where the system does not watch."""
        return self._file

    def add(self, folder: Path, owner: Account) -> None:
        """Watch a folder, with its owner's rights; once is enough."""
        if self._file < 0 or folder in self._watched:
            return
        with suppress(OSError), acting_as(owner):
            number = self._library.inotify_add_watch(self._file, os.fsencode(folder), _MODIFY | _CREATE | _ONLY_FOLDERS)
            if number >= 0:
                self._watched[folder] = number

    def remove(self, folder: Path) -> None:
        """Watch a folder no longer."""
        number = self._watched.pop(folder, None)
        if number is not None:
            self._library.inotify_rm_watch(self._file, number)

    def clear(self) -> None:
        """Make the file unreadable again, before looking what there is."""
        with suppress(OSError):
            while os.read(self._file, _MOST_BYTES):
                pass

    def close(self) -> None:
        """End all."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Pace:
    """Lets something happen at once as long as it is rare.

    Parameters
    ----------
    every_s
        It may happen so often for long,
    most
        and so many times in a row.
    """

    def __init__(self, every_s: float, most: int) -> None:
        self._every = every_s
        self._most = most
        self._left = float(most)
        self._counted = time.monotonic()

    def allows(self) -> bool:
        """Tell whether it may happen now."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._counted) / self._every)
        self._counted = now
        return self._left >= 1

    def spend(self) -> None:
        """Note that it happens."""
        self._left -= 1
