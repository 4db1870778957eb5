"""What a job's process does: takes a job's folder, and runs the job to its end whatever becomes of the server."""

from __future__ import annotations

import faulthandler
import gc
import linecache
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import CompileError, OpenHCSError, RepositoryError
from openhcs_jupyter.server.model import JobState, NotCompiled, Planned, StateChanged
from openhcs_jupyter.server.orders import MODULES, PLAN, WORK, JobJournal, Orders, read_orders, write_to_log
from openhcs_jupyter.server.processes import KEY_FILE

if TYPE_CHECKING:
    from openhcs_jupyter.compiler import ExecutionPlan
    from openhcs_jupyter.engine import Run

CANCEL, PARK, SHOW_STACK = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
SHARED = (
    "openhcs_jupyter.functions.words",
    "openhcs_jupyter.repository.embedded",
    "openhcs_jupyter.engine.program",
    "openhcs_jupyter.engine.pipes",
)
"""Modules that the process of a job has in common with its workers."""
NEEDED = (
    *SHARED,
    "openhcs_jupyter.compiler.compiling",
    "openhcs_jupyter.engine.start",
    "openhcs_jupyter.door.start",
)
"""Modules that every job needs."""
_LONGEST_PATH = 4096
_TICK_S = 0.05
_PATIENCE_S = 600.0
"""So long a job waits for an OMERO that is away."""


def do_next(server: socket.socket, *, ahead: bool = False) -> None:
    """Get ready, wait for a job, and do it; without one, end with the server.

    Parameters
    ----------
    server
        Gives the job's folder and its lock.
    ahead
        There is none yet, and time to rehearse.
    """
    faulthandler.enable()
    faulthandler.register(SHOW_STACK)
    for module in SHARED:
        import_module(module)
    from openhcs_jupyter.engine import fork_server

    fork_server().branch(server)  # before there are threads, and before this process holds a lock
    for module in NEEDED:
        import_module(module)
    gc.freeze()
    gc.enable()
    if ahead:
        _rehearse(server)
    try:
        message, files, _, _ = socket.recv_fds(server, _LONGEST_PATH, 1)
    except OSError:
        return  # the server has ended
    server.close()
    if not message:
        return
    # The lock comes locked; it is held until this process ends, and by no other one.
    os.set_inheritable(files[0], False)
    folder = Path(os.fsdecode(message))
    _settle(folder)
    _do(folder)


def _rehearse(server: socket.socket) -> None:
    """Get to know the way, until there is a job."""
    from openhcs_jupyter.server.rehearsal import rehearse

    with suppress(Exception), closing(rehearse()) as steps:  # the job itself says what is amiss
        while not select.select([server], [], [], 0)[0]:
            next(steps)


def _settle(folder: Path) -> None:
    """Make the job's folder this process's place: its working directory, its output."""
    (folder / WORK).mkdir(exist_ok=True)
    os.chdir(folder / WORK)
    write_to_log(folder)


def _do(folder: Path) -> None:
    asked = _Asked()
    orders = read_orders(folder)
    journal = JobJournal(folder)
    journal.tell(StateChanged(time=time.time(), state="compiling", attempt=orders.attempt))
    state: JobState = "failed"
    session: Session | None = None
    try:
        if orders.login is not None:
            session = Session(orders)
        state, message = _Job(orders, folder, journal, asked).run()
        if state == "failed" and session is not None and session.has_ended():
            state = "needs_login"
    except OpenHCSError as error:
        message = str(error)
        if _is_ended_session(error):
            state = "needs_login"
    except MemoryError:
        message = "It ran out of memory."
    except Exception as error:  # noqa: BLE001 - the user's text may raise anything
        traceback.print_exc()
        message = _brief(error, orders)
    if session is not None:
        session.close()
    journal.tell(StateChanged(time=time.time(), state=state, message=message, attempt=orders.attempt))


def _is_ended_session(error: BaseException) -> bool:
    """Tell whether an error says that the job needs a new session with OMERO."""
    sessions = sys.modules.get("openhcs_jupyter.repository.omero.sessions")
    return sessions is not None and isinstance(error, sessions.SessionEndedError)


class Session:
    """The job's own session with OMERO; its key lies in a file that its owner alone can read.

    Raises
    ------
    SessionEndedError
        If none can be made.
    RepositoryError
        If OMERO does not answer.
    """

    def __init__(self, orders: Orders) -> None:
        from openhcs_jupyter.repository.omero.address import parse_address
        from openhcs_jupyter.server import omero

        assert orders.login is not None
        self._address = parse_address(orders.repository)
        self._file = Path(os.environ[KEY_FILE])
        self._key, _ = omero.derive(self._address, orders.login, _PATIENCE_S)
        self._file.unlink(missing_ok=True)
        with self._file.open("x") as file:  # the umask keeps others out
            file.write(self._key)

    def has_ended(self) -> bool:
        """Tell whether OMERO no longer knows it."""
        from openhcs_jupyter.server import omero

        try:
            omero.examine(self._address, self._key)
        except RepositoryError as error:
            return _is_ended_session(error)
        return False

    def close(self) -> None:
        """End it."""
        from openhcs_jupyter.server import omero

        with suppress(RepositoryError):
            omero.drop(self._address, self._key)
        self._file.unlink(missing_ok=True)


class _Asked:
    """What the server asks of this process by signals."""

    def __init__(self) -> None:
        self._to: list[JobState] = []
        self.run: Run | None = None
        self.breaks = False
        """Whether being asked breaks off what is being done, since nothing has been begun yet."""
        for number in (CANCEL, PARK):
            signal.signal(number, self._take)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def to(self) -> JobState | None:
        """How the job is to stand; None if nothing is asked."""
        return min(self._to, default=None)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._to.append("cancelled" if number == CANCEL else "parked")
        if self.run is not None:
            self.run.cancel()
        elif self.breaks:
            raise _StoppedError


class _StoppedError(BaseException):
    """The job is asked to stop before it has begun to run."""


class _Job:
    """From orders to a run that has ended."""

    def __init__(self, orders: Orders, folder: Path, journal: JobJournal, asked: _Asked) -> None:
        self._orders = orders
        self._folder = folder
        self._journal = journal
        self._asked = asked

    def run(self) -> tuple[JobState, str]:
        """Do the job; returns how it ended, and why."""
        from openhcs_jupyter.door import start

        try:
            self._asked.breaks = True
            plan = self._plan()
            self._asked.breaks = False
        except _StoppedError:
            self._asked.breaks = False
        except CompileError as error:
            self._journal.tell(NotCompiled(time=time.time(), problems=error.problems, source_name=error.source_name))
            raise
        if self._asked.to() is not None:
            return self._asked.to() or "cancelled", ""
        options = self._orders.payload.options
        if options.dry_run:
            from openhcs_jupyter.engine.start import keep_plan

            keep_plan(plan, self._folder / PLAN, options.given(), self._orders.run)
            self._planned(plan, self._folder / PLAN)
            return "done", ""
        run = start(plan, options, run_id=self._orders.run)
        self._asked.run = run
        if self._asked.to() is not None:
            run.cancel()
        self._planned(plan, run.folder)
        self._state("running")
        return self._follow(run)

    def _planned(self, plan: ExecutionPlan, folder: Path) -> None:
        self._journal.tell(
            Planned(
                time=time.time(),
                run=self._orders.run,
                folder=str(folder),
                plate_id=plan.plate_id,
                plate_name=plan.plate_name,
                units=len(plan.units),
            )
        )

    def _plan(self) -> ExecutionPlan:
        from openhcs_jupyter.door import Script, Source, choose_plate, define_steps, plan_run
        from openhcs_jupyter.functions.words import pipeline_words
        from openhcs_jupyter.repository import connect

        payload = self._orders.payload
        filename = f"<{self._orders.job}>"
        source = Source(payload.text_name, payload.text or payload.cell, filename)
        linecache.cache[filename] = (len(payload.cell), None, payload.cell.splitlines(keepends=True), filename)
        # Functions that belong to __main__ go to the workers by value, as those of a notebook do.
        namespace: dict[str, Any] = {**pipeline_words(), "__name__": "__main__"}
        if payload.modules:
            from openhcs_jupyter.pipeline.modules import write_modules

            write_modules(payload.modules, self._folder / MODULES)
            sys.path.insert(0, str(self._folder / MODULES))
        flags = 0
        if payload.before:
            name = f"<{self._orders.job} before>"
            linecache.cache[name] = (len(payload.before), None, payload.before.splitlines(keepends=True), name)
            before = compile(payload.before, name, "exec", dont_inherit=True)
            flags = before.co_flags
            exec(before, namespace)  # noqa: S102 - that is what a job is
        steps = define_steps(source, payload.cell, namespace, flags=flags)
        with connect(self._orders.repository) as repository:
            plate = choose_plate(repository, payload.options)
        script = Script("\n".join(filter(None, (payload.before, payload.cell.removeprefix("\n")))), {})
        return plan_run(steps, source, plate, payload.options, script, self._orders.topology)

    def _follow(self, run: Run) -> tuple[JobState, str]:
        saving = False
        while not run.wait(_TICK_S):
            if run.plan.save and not saving:
                stages = run.progress.stages
                if all(stage.done + stage.failed == stage.total for stage in stages):
                    saving = True
                    self._state("saving")
        if run.status == "done":
            return "done", ""
        if run.status == "failed":
            return "failed", run.message or run.summary()
        return self._asked.to() or "cancelled", run.message

    def _state(self, state: JobState) -> None:
        self._journal.tell(StateChanged(time=time.time(), state=state, attempt=self._orders.attempt))


def _brief(error: BaseException, orders: Orders) -> str:
    """Name an error of the user's text, and where it arose."""
    name = f"<{orders.job}>"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
