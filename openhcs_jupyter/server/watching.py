"""Wakes the server when a journal grows or a job's process ends, so that it need not look for that all the time."""

from __future__ import annotations

import ctypes
import os
import select
import time
from contextlib import suppress
from pathlib import Path

from openhcs_jupyter.server.accounts import Account, acting_as
from openhcs_jupyter.server.processes import ProcessId, process_id

_MODIFY, _CREATE, _ONLY_FOLDERS = 0x2, 0x100, 0x1000000
_MOST_BYTES = 1 << 16


class Watch:
    """Watches the folders of jobs and runs by Linux's inotify, which Python's library lacks, and processes by pidfds.

    It says only that there may be news: whoever is woken looks for them as it does without.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._events = select.epoll()
        self._inotify: int = self._library.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._inotify >= 0:
            self._events.register(self._inotify, select.EPOLLIN)
        self._folders: dict[Path, int] = {}
        """By folder, inotify's number of it; negative where the system does not watch it."""
        self._processes: dict[ProcessId, int] = {}
        """By process, the file that becomes readable when it ends."""

    def fileno(self) -> int:
        """Return what is polled."""
        return self._events.fileno()

    @property
    def sees_all(self) -> bool:
        """Whether the system watches all that it was asked to; else there may be news without a word."""
        return all(number >= 0 for number in self._folders.values())

    def add(self, folder: Path, owner: Account) -> None:
        """Watch a folder, with its owner's rights; once is enough."""
        if self._folders.get(folder, -1) >= 0:
            return
        self._folders[folder] = -1
        if self._inotify >= 0:
            with suppress(OSError), acting_as(owner):
                self._folders[folder] = self._library.inotify_add_watch(
                    self._inotify, os.fsencode(folder), _MODIFY | _CREATE | _ONLY_FOLDERS
                )

    def remove(self, folder: Path) -> None:
        """Watch a folder no longer."""
        number = self._folders.pop(folder, -1)
        if number >= 0:
            self._library.inotify_rm_watch(self._inotify, number)

    def follow(self, process: ProcessId) -> None:
        """Tell when a process has ended, from then on until it is dismissed; one that has is not followed."""
        with suppress(OSError):
            file = os.pidfd_open(process.pid)
            if process in self._processes or process_id(process.pid) != process:
                os.close(file)
                return
            self._events.register(file, select.EPOLLIN)
            self._processes[process] = file

    def dismiss(self, process: ProcessId) -> None:
        """Follow a process no longer."""
        file = self._processes.pop(process, None)
        if file is not None:
            self._events.unregister(file)
            os.close(file)

    def clear(self) -> None:
        """Forget that folders have changed, before looking what there is."""
        with suppress(OSError):
            while os.read(self._inotify, _MOST_BYTES):
                pass

    def close(self) -> None:
        """End all."""
        for process in list(self._processes):
            self.dismiss(process)
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1
        self._events.close()


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
