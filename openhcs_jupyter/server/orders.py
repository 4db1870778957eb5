"""What the server hands to a job's process, and what the process writes for the server."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from openhcs_jupyter.server.model import AnyJobEvent, Payload
from openhcs_jupyter.topology import Topology

ORDERS, JOURNAL, LOG, WORK, STREAM, MODULES = "orders.json", "journal.jsonl", "log", "work", "stream", "modules"
"""In a job's folder: its `Orders`, events, output, working directory, what viewers connect by, modules of its code."""
PLAN, SHOW = "plan", "show.json"
"""There too: what a dry run leaves, laid out as a run's folder; what viewers are shown."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a process does."""

    job: str
    run: str
    """Id of the run: begun if it is not there, gone on with if it is."""
    attempt: int
    repository: str
    payload: Payload
    topology: Topology
    """The cores and GPUs that the job is leased, and no others."""
    login: str | None = None
    """Key of a session with OMERO from which the process makes one of its own; None where there is no OMERO."""


_encoder = msgspec.json.Encoder()
_events = msgspec.json.Decoder(AnyJobEvent)
_orders = msgspec.json.Decoder(Orders)


class JobJournal:
    """What the process of a job tells the server, one event a line."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / JOURNAL, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # ends the line that an earlier process could not

    def tell(self, event: AnyJobEvent) -> None:
        """Append an event.

        Raises
        ------
        OSError
            If the disk is full; what was written in part is taken back.
        """
        end = os.lseek(self._file, 0, os.SEEK_END)
        line = _encoder.encode(event) + b"\n"
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), JOURNAL)


def read_events(data: bytes) -> Iterator[tuple[int, AnyJobEvent | None]]:
    """Read the whole lines of a part of a journal: how long each is, and its event, or None where it is none."""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        event = None
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            event = _events.decode(memoryview(data)[at:end])
        yield end + 1 - at, event
        at = end + 1


def write_orders(folder: Path, orders: Orders) -> None:
    """Write a job's orders into its folder, whole or not at all, and never through what a job has left there."""
    partial = folder / f".{ORDERS}.{os.urandom(8).hex()}"
    with open(partial, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        file.write(_encoder.encode(orders))
    partial.replace(folder / ORDERS)


def read_orders(folder: Path) -> Orders:
    """Read a job's orders."""
    return _orders.decode((folder / ORDERS).read_bytes())


def write_to_log(folder: Path) -> None:
    """Have what this process prints go into the log of a job's folder, and let it read nothing."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((0, nothing), (1, log), (2, log)):
        os.dup2(theirs, ours)
    os.close(log)
    os.close(nothing)
