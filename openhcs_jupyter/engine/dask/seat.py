"""What happens in Dask's workers: batches of units are done by worker processes as a local run has them.

A Dask worker never runs a user's function itself. So a crash or a hang costs a unit and not the Dask worker, a module
that changed is taken as it is now, and whatever a local run tells of a failure is told here, too.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from openhcs_jupyter.engine.forkserver import fork_server
from openhcs_jupyter.engine.local import open_session
from openhcs_jupyter.engine.program import Failure, Outcome, PackedProgram, Work
from openhcs_jupyter.engine.store import RunFolder, stored_files
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.topology import Device, discover

PROGRAM = "program.pickle"
CPU = "cpu"
_TICK_S = 0.05
_IDLE_S = 60.0
_TOLD_EVERY = 2
"""Ticks."""


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch says of its run."""

    run_folder: str
    """Holds the program, in the file `PROGRAM`."""
    digest: str
    """Of that file."""
    must_see: tuple[str, ...]
    """Files or folders of the plate, the repository and the notebook."""
    unit_timeout_s: float
    topic: str
    """Of Dask's events that tell which units are being computed."""
    version: str
    """Of this package and of Python, which must be the same everywhere."""


def version() -> str:
    """Say which versions work together."""
    own = sys.modules["openhcs_jupyter"].__version__
    return f"openhcs-jupyter {own} on Python {sys.version_info.major}.{sys.version_info.minor}"


def do_batch(number: int, packed: bytes) -> list[Outcome]:
    """Do some units in a thread of a Dask worker; this is the function that Dask is given.

    Parameters
    ----------
    number
        Of the batch, for its events.
    packed
        The pickled ticket and units.

    Returns
    -------
    list of Outcome
        Of every unit, unless the batch is no longer wanted.
    """
    from distributed import get_worker
    from distributed.worker import thread_state

    worker = get_worker()
    key = thread_state.key
    ticket: Ticket
    ticket, works = pickle.loads(packed)  # noqa: S301 - from our conductor

    def tell(running: Sequence[int]) -> None:
        worker.log_event(ticket.topic, {"batch": number, "running": list(running)})

    def wanted() -> bool:
        # Whoever waited for the batch may have cancelled it, or be gone.
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    try:
        seat = _seat(ticket, on_gpu=works[0].unit.device != CPU)
    except RunError as error:
        message = f"The Dask worker {worker.address} on {socket.gethostname()} {error.message}"
        return [Outcome(unit=works[0].unit.id, failure=Failure(message=message, whole_run=True))]
    return seat.do(works, tell, wanted)


def leave(run_folder: str) -> None:
    """End what a Dask worker has of a run, and return when it has ended."""
    ending = [seat for seat in list(_seats.values()) if seat.run_folder == run_folder]
    for seat in ending:
        seat.ending.set()
    for seat in ending:
        seat.close()


class _Seat:
    """One thread of a Dask worker, with one worker process for one run."""

    def __init__(self, ticket: Ticket, program: PackedProgram, device: Device | None) -> None:
        self.run_folder = ticket.run_folder
        self.ending = threading.Event()
        self._folder = RunFolder(program.run_folder)
        self._session = open_session(program, 1, ticket.unit_timeout_s, device)
        self._busy = threading.Lock()
        self._idle: threading.Timer | None = None

    def do(self, works: Sequence[Work], tell: Any, wanted: Any) -> list[Outcome]:
        """Do units one after another, reading ahead and writing behind."""
        if self._idle is not None:
            self._idle.cancel()
        with self._busy:
            outcomes = self._do(works, tell, wanted)
        self._idle = threading.Timer(_IDLE_S, self._tire)
        self._idle.daemon = True
        self._idle.start()
        return outcomes

    def close(self) -> None:
        """End the worker process as soon as no batch uses it."""
        self.ending.set()
        with self._busy:
            for place, seat in list(_seats.items()):
                if seat is self:
                    del _seats[place]
            if self._idle is not None:
                self._idle.cancel()
            self._session.cancel()

    def _do(self, works: Sequence[Work], tell: Any, wanted: Any) -> list[Outcome]:
        session = self._session
        waiting, outcomes, held, told = deque(works), list[Outcome](), 0, list[int]()
        ticks = 0
        while (waiting or held) and not self.ending.is_set() and wanted():
            while waiting and session.room > 0:
                work = waiting.popleft()
                if self._folder.holds(work.key, None):  # by a Dask worker that was lost before it could tell
                    files = stored_files(self._folder.units / work.key)
                    outcomes.append(Outcome(unit=work.unit.id, files=files))
                else:
                    session.submit(work)
                    held += 1
            ended = session.wait(_TICK_S) if held else []
            outcomes += ended
            held -= len(ended)
            if any(outcome.failure and outcome.failure.device_lost for outcome in ended):
                break
            ticks += 1
            if ticks % _TOLD_EVERY == 0 and (running := list(session.running)) != told:
                tell(running)
                told = running
        if waiting or held or any(outcome.failure and outcome.failure.device_lost for outcome in outcomes):
            session.cancel()
            self.ending.set()
        return outcomes

    def _tire(self) -> None:
        self.close()
        if not _seats:
            fork_server().stop()


_seats: dict[tuple[str, int, bool], _Seat] = {}


def _seat(ticket: Ticket, *, on_gpu: bool) -> _Seat:
    """Return this thread's seat for a run; the first batch makes it.

    Raises
    ------
    RunError
        If this process cannot do units of the run; `message` goes on from the name of the worker.
    """
    place = (ticket.run_folder, threading.get_ident(), on_gpu)
    seat = _seats.get(place)
    if seat is None or seat.ending.is_set():
        _check(ticket)
        seat = _seats[place] = _Seat(ticket, _program(ticket), _device() if on_gpu else None)
    return seat


def _device() -> Device:
    """Find the GPU of this Dask worker: the first that CUDA may see, by its UUID or its number, or else the first."""
    devices = discover().devices
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
    for device in devices:
        if not wanted or wanted in (device.uuid, device.id.removeprefix("gpu:")):
            return device
    raise RunError("finds no GPU, though it was started as one that has one.")


def _check(ticket: Ticket) -> None:
    if ticket.version != version():
        raise RunError(f"has {version()}, and the run needs {ticket.version}. Install the same on all machines.")
    for path in ticket.must_see:
        if not Path(path).exists():
            raise RunError(f"cannot see {path}. It must be on a file system that all workers share.")


def _program(ticket: Ticket) -> PackedProgram:
    path = Path(ticket.run_folder) / PROGRAM
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"cannot see the run's folder {ticket.run_folder}: {error.strerror}. The repository must be on a file "
            "system that all workers share."
        ) from error
    if digest_of(packed) != ticket.digest:
        raise RunError(f"sees another file as {path} than the notebook does.")
    program: PackedProgram = pickle.loads(packed)  # noqa: S301 - as the conductor wrote it
    return program


def digest_of(packed: bytes) -> str:
    """Return the digest of a packed program."""
    return hashlib.sha256(packed).hexdigest()
