"""Processes that are found again: told apart from others of the same number, signalled, ended with what they left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

SEAT = "OPENHCS_SEAT"
"""Variable in the environment of a job's process and all that come from it."""
KEY_FILE = "OMERO_SESSION_KEY_FILE"
"""Variable that names the file in which it keeps the key of its session; set before it does anything."""
_PROC = Path("/proc")
_DEAD = ("Z", "X")
"""States of processes that have ended and only wait for their parents to ask how."""


class ProcessId(msgspec.Struct, frozen=True):
    """One process of this machine, now and for good."""

    pid: int
    start: int
    """When it started, in the kernel's ticks since the boot."""
    boot: str


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what tells one start of this machine from another."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def process_id(pid: int) -> ProcessId | None:
    """Describe a process that runs now; None if there is none."""
    try:
        # The name, the second word, may hold anything but ends with the last parenthesis.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return ProcessId(pid, int(fields[19]), boot_id()) if fields[0] not in _DEAD else None


def send(process: ProcessId, number: int) -> bool:
    """Send a signal to exactly this process; tells whether it was there."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The descriptor stands for the process that has the number now: if that is the one, it stays the one.
        if process_id(process.pid) != process:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def of_seat(seat: str) -> Iterator[int]:
    """Find the processes with a mark in their environment."""
    for pid, mark in seats():
        if mark == seat:
            yield pid


def seats() -> Iterator[tuple[int, str]]:
    """Find all processes that have a mark, and their marks."""
    own = os.getpid()
    for place in _PROC.iterdir():
        if place.name.isdecimal() and int(place.name) != own:
            mark = _mark(place)
            if mark is not None:
                yield int(place.name), mark


def end_all(seat: str, patience_s: float = 5.0) -> int:
    """Kill what has a mark, until nothing is left that has it; returns how many processes there were."""
    ended = 0
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        found = [pid for pid in of_seat(seat) if not _is_dead(pid)]
        if not found:
            break
        ended += sum(_kill(pid, seat) for pid in found)
        time.sleep(0.01)  # until they are gone
    return ended


def _kill(pid: int, seat: str) -> bool:
    """Kill a process if it has a mark still: its number may be another one's since it was found."""
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if _mark(_PROC / str(pid)) == seat:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        finally:
            os.close(descriptor)
    return False


def _mark(place: Path) -> str | None:
    """Return the mark of a process, by its folder below ``/proc``."""
    try:
        environment = (place / "environ").read_bytes()
    except OSError:
        return None
    wanted = f"{SEAT}=".encode()
    for variable in environment.split(b"\0") if wanted in environment else ():
        if variable.startswith(wanted):
            return variable[len(wanted) :].decode(errors="replace")
    return None


class Usage(msgspec.Struct, frozen=True):
    """What the processes of a job use."""

    memory_bytes: int = 0
    """Of each page its part, where several processes share it; more than that where what they may use is not near."""
    processes: int = 0
    """Threads count as processes, as in the kernel's own limit."""


def usages(wanted: Mapping[str, int], memory_bytes: float) -> dict[str, Usage]:
    """Measure what the processes with some marks use.

    Parameters
    ----------
    wanted
        Marks, and of each the account that its processes belong to, by its number: whoever learns another one's mark
        could write it down.
    memory_bytes
        What the processes of one mark may use. Their parts of shared pages are reckoned only if they could have passed
        that: it takes the system long, and the processes meanwhile wait for memory.
    """
    found: dict[str, list[_Process]] = {}
    for pid, seat in seats():
        if seat in wanted and (process := _process(pid)) is not None and process.account == wanted[seat]:
            found.setdefault(seat, []).append(process)
    return {seat: _usage(processes, memory_bytes) for seat, processes in found.items()}


class _Process(NamedTuple):
    pid: int
    account: int
    threads: int
    memory_bytes: int
    """With all of each page that it shares."""


def _process(pid: int) -> _Process | None:
    try:
        text = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    told = {name: words.split() for name, _, words in (line.partition(":") for line in text.splitlines())}
    if "RssAnon" not in told:
        return None  # it has ended
    return _Process(pid, int(told["Uid"][0]), int(told["Threads"][0]), int(told["RssAnon"][0]) * 1024)


def _usage(processes: Sequence[_Process], memory_bytes: float) -> Usage:
    used = sum(process.memory_bytes for process in processes)
    if used > memory_bytes:
        used = sum(_part_of_memory(process.pid) for process in processes)
    return Usage(used, sum(process.threads for process in processes))


def _part_of_memory(pid: int) -> int:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    return 0


def _is_dead(pid: int) -> bool:
    """Tell whether a process has ended and only waits for its parent to ask how."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in _DEAD
    except OSError:
        return True
