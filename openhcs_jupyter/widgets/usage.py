"""What the processes of a run use: memory and processor time."""

from __future__ import annotations

import time

import psutil


class Usage:
    """Looks at a process and all below it.

    Parameters
    ----------
    pid
        Of the process that conducts a run, on this machine.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu: float | None = None
        self._at = 0.0

    def look(self) -> tuple[int, float | None]:
        """Return the bytes that the processes hold for themselves, and the cores they kept busy since the last call."""
        memory, cpu = 0, 0.0
        try:
            top = psutil.Process(self._pid)
            processes = [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0, None
        for process in processes:
            try:
                with process.oneshot():
                    held, times = process.memory_info(), process.cpu_times()
            except psutil.NoSuchProcess:  # it has ended meanwhile
                continue
            memory += held.rss - held.shared
            cpu += times.user + times.system
        now = time.monotonic()
        busy = None if self._cpu is None or now <= self._at else max(0.0, cpu - self._cpu) / (now - self._at)
        self._cpu, self._at = cpu, now
        return memory, busy
