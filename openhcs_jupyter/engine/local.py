"""Runs units in worker processes on this machine."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from openhcs_jupyter.engine.devices.opening import missing
from openhcs_jupyter.engine.executor import Executor, Session
from openhcs_jupyter.engine.forkserver import fork_server
from openhcs_jupyter.engine.lanes import Lane, LanedSession
from openhcs_jupyter.engine.pipes import Pipe
from openhcs_jupyter.engine.program import Failure, Outcome, PackedProgram, Program, Work, pack
from openhcs_jupyter.engine.status import STATUS_SIZE, Status
from openhcs_jupyter.engine.store import RunFolder, stored_files
from openhcs_jupyter.topology import Device

_AT_HAND = 3
"""Units that a worker holds: one computed, one read ahead, and one on its way."""
_TRIES = 2
_LOOK_S = 0.1


class LocalExecutor(Executor):
    """Worker processes on this machine, forked from one that has imported what units need.

    Parameters
    ----------
    workers_stay
        For the next run, which begins the sooner; only where they do nothing of the user's.
    """

    def __init__(self, *, workers_stay: bool = False) -> None:
        self._stay = workers_stay

    def prepare(self, timeout: float) -> bool:
        """Have the libraries imported that workers share."""
        return fork_server().ready(timeout)

    def lacks(self, devices: Sequence[Device]) -> str | None:
        """Look whether the GPUs are on this machine, and CuPy."""
        return missing(devices)

    def open(self, program: Program, *, workers: int, unit_timeout_s: float) -> Session:
        """Fork the workers: those of CPUs, and one for each GPU."""
        packed = pack(program)
        if not program.devices:
            return open_session(packed, workers, unit_timeout_s, stay=self._stay)
        lanes = {"cpu": open_session(packed, workers, unit_timeout_s)}
        for device in program.devices:
            lanes[device.id] = open_session(packed, 1, unit_timeout_s, device)
        return LanedSession(lanes, program.devices)


def open_session(
    program: PackedProgram, workers: int, unit_timeout_s: float, device: Device | None = None, *, stay: bool = False
) -> Lane:
    """Begin a session on CPUs or on one GPU; see `Executor.open`."""
    return _LocalSession(program, workers, unit_timeout_s, device, stay=stay)


class _Worker:
    """One worker process, seen from its conductor."""

    def __init__(self, program: bytes, *, stays: bool) -> None:
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("openhcs-worker") if hasattr(os, "memfd_create") else _unnamed_file()
        os.truncate(memory, STATUS_SIZE)
        try:
            self.pid = fork_server().fork(theirs.fileno(), memory, stays=stays)
            self.status = Status(memory)
        finally:
            theirs.close()
            os.close(memory)
        self.connection = Pipe(ours)
        self.held: deque[Work] = deque()
        with suppress(OSError):  # if it has died already, that is seen when it is waited for
            self.connection.send_bytes(program)

    def end(self) -> int:
        """End the process and return how it ended."""
        self.connection.close()
        self.status.close()
        return fork_server().reap(self.pid)

    def dismiss(self) -> None:
        """End the process, whose work is done or no longer wanted."""
        self.connection.close()
        self.status.close()
        fork_server().dismiss(self.pid)


class _LocalSession(Lane):
    def __init__(
        self, program: PackedProgram, workers: int, unit_timeout_s: float, device: Device | None, *, stay: bool
    ) -> None:
        self._stay = stay
        self._program = program.message(device)
        self._folder = RunFolder(program.run_folder)
        self._timeout = unit_timeout_s
        self._tries: dict[int, int] = {}
        self._waiting: deque[Work] = deque()
        self._looked = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._most = workers
        fork_server().load(program.modules)

    def fileno(self) -> int:
        return self._selector.fileno()

    @property
    def room(self) -> int:
        return self._most * _AT_HAND - sum(len(worker.held) for worker in self._workers) - len(self._waiting)

    @property
    def running(self) -> Sequence[int]:
        units = (worker.status.read()[0] for worker in self._workers)
        return [unit for unit in units if unit >= 0]

    def submit(self, work: Work) -> None:
        self._waiting.append(work)
        self._hand_out()

    def wait(self, timeout: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for key, _ in self._selector.select(timeout):
            worker: _Worker = key.data
            try:
                outcome: Outcome = worker.connection.recv()
            except (EOFError, OSError):
                outcomes += self._replace(worker)
                continue
            worker.held = deque(work for work in worker.held if work.unit.id != outcome.unit)
            self._tries.pop(outcome.unit, None)
            outcomes.append(outcome)
        outcomes += self._overdue()
        self._hand_out()
        return outcomes

    def cancel(self) -> None:
        self._waiting.clear()
        for worker in self._workers:
            worker.held.clear()
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.dismiss()
        self._workers = []
        self._selector.close()

    def _start_worker(self) -> None:
        worker = _Worker(self._program, stays=self._stay)
        self._workers.append(worker)
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _hand_out(self) -> None:
        """Give waiting units to the workers that hold the fewest."""
        while self._waiting:
            # The first worker computes while the second is forked.
            if len(self._workers) < self._most and all(worker.held for worker in self._workers):
                self._start_worker()
            worker = min(self._workers, key=lambda worker: len(worker.held))
            if len(worker.held) >= _AT_HAND:
                return
            work = self._waiting.popleft()
            worker.held.append(work)
            with suppress(OSError):  # a worker that just died is seen when it is waited for
                worker.connection.send(work)

    def _overdue(self) -> list[Outcome]:
        outcomes: list[Outcome] = []
        now = time.monotonic()
        if not self._timeout or now - self._looked < _LOOK_S:
            return outcomes
        self._looked = now
        for worker in list(self._workers):
            unit, step, since = worker.status.read()
            if unit >= 0 and now - since > self._timeout:
                message = f"took longer than {self._timeout:g} s and was stopped"
                outcomes += self._replace(worker, Failure(message=message, step=step if step >= 0 else None))
        return outcomes

    def _replace(self, worker: _Worker, stopped: Failure | None = None) -> list[Outcome]:
        """Put a new worker in the place of one that died, and see what became of the units that it held."""
        unit, step, _ = worker.status.read()
        self._selector.unregister(worker.connection)
        self._workers.remove(worker)
        how = worker.end()
        outcomes: list[Outcome] = []
        again: list[Work] = []
        blamed = unit
        for work in worker.held:
            number = work.unit.id
            if self._folder.holds(work.key, None):
                outcomes.append(Outcome(unit=number, files=stored_files(self._folder.units / work.key)))
                continue
            if blamed < 0:
                blamed = number  # it died reading or writing, and this was the first in line
            if number != blamed:
                again.append(work)
                continue
            self._tries[number] = self._tries.get(number, 0) + 1
            failure = stopped
            if failure is None and self._tries[number] >= _TRIES:
                failure = Failure(message=_death(how), step=step if step >= 0 and unit == number else None)
            if failure is None:
                again.append(work)
            else:
                outcomes.append(Outcome(unit=number, failure=failure))
        self._waiting.extendleft(reversed(again))
        return outcomes


def _death(how: int) -> str:
    """Say how a worker died."""
    if how >= 0:
        return f"its worker process ended by itself with status {how}, twice"
    name = signal.Signals(-how).name
    why = {
        "SIGBUS": "a file became shorter while it was read",
        "SIGKILL": "perhaps the machine ran out of memory",
        "SIGSEGV": "a library crashed",
    }.get(name, "it crashed")
    return f"its worker process was killed by {name}, twice: {why}"


def _unnamed_file() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
