"""A run that a job on an execution server does, held like one of this machine's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openhcs_jupyter.client.link import Link
from openhcs_jupyter.client.mirror import Mirror
from openhcs_jupyter.compiler.plan import ExecutionPlan
from openhcs_jupyter.engine import Run
from openhcs_jupyter.errors import CompileError, RunError, ServerError
from openhcs_jupyter.events import AnyEvent, Progress, StoredFile, UnitDone, UnitFailed
from openhcs_jupyter.model import ResultSpec, RunRecord, RunStatus
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import Job, JobEvent, JobState, NotCompiled, Planned, StateChanged

_STATUS: dict[str, RunStatus] = {
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "parked": "interrupted",
    "needs_login": "interrupted",
}
_NOTHING = Progress(stages=(), elapsed_s=0.0, units_per_s=0.0, remaining_s=None)
_FETCHED_S = 0.25
_LOOK_S = 0.2
_CANCEL_S = 10.0
_ASK_S = 2.0


class RemoteRun(Run):
    """What a job does, as `Run`; `state` and `job` say more.

    Until the job is compiled there is no plan: `plan`, `record` and what needs them wait for it.

    Parameters
    ----------
    link
        To the server.
    job
        As the server said last.
    """

    def __init__(self, link: Link, job: Job) -> None:
        self._link = link
        self._job = job
        self._mirror = Mirror(link, job.id)
        self._state: JobState = job.state
        self._latest = job.events
        self._why = job.message
        self._at = 0
        self._files: dict[int, tuple[StoredFile, ...]] = {}
        self._planned = 0
        """How often the server has compiled the job: anew when it goes on."""
        self._opened = 0
        """Which of these plans is here; 0: none."""
        self._opening = threading.Lock()
        self._unfetchable = 0.0
        self._compile_error: CompileError | None = None
        self._asked: Future[Any] | None = None
        self._ask_due = 0.0
        self._conductor = self._thread = None
        self._news = threading.Condition()
        self._leave = link.follow(job.id, self._take)

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def name(self) -> str:
        """The run's name, as the cell gave it."""
        return self._job.name

    @property
    def job(self) -> Job:
        """The job as the server has it now."""
        self._job = self._link.ask(p.GetJob, p.JobIs, job=self.id).job
        return self._job

    def known_job(self) -> Job:
        """Return the job as it was known some seconds ago, without waiting."""
        asked = self._asked
        if asked is not None and asked.done():
            if asked.exception() is None:
                self._job = asked.result().job
            self._asked = asked = None
        now = time.monotonic()
        if asked is None and now > self._ask_due:
            self._ask_due = now + _ASK_S
            self._asked = self._link.begin(p.GetJob, job=self.id)
        return self._job

    @property
    def is_known(self) -> bool:
        """Whether all that had happened when this was made is known here."""
        return self._at >= self._latest

    def wait_until_known(self) -> None:
        """Wait for that."""
        self._wait_until(lambda: self.is_known)

    @property
    def compile_error(self) -> CompileError | None:
        """What keeps the pipeline from being compiled; None if nothing does."""
        return self._compile_error

    @property
    def server(self) -> str:
        """The user's name for the server."""
        return self._link.name

    @property
    def state(self) -> JobState:
        """The job's state, as far as it is known here."""
        return self._state

    @property
    def plan(self) -> ExecutionPlan:
        """What is done; waits until the server has compiled it.

        Raises
        ------
        CompileError
            If the pipeline does not fit the plate, or itself.
        RunError
            If the job ended before.
        """
        self._require_begun()
        return self._plan

    @property
    def record(self) -> RunRecord:
        """What is kept of the run for good; waits as `plan` does."""
        self._require_begun()
        return self._record

    @property
    def is_planned(self) -> bool:
        """Whether the server has compiled the job, and its plan is here."""
        if self._opened != self._planned and time.monotonic() > self._unfetchable:
            try:
                self._open_plan()
            except ServerError:
                self._unfetchable = time.monotonic() + _FETCHED_S
        return self._opened > 0

    @property
    def is_dry(self) -> bool:
        """Whether it is compiled and no more: `plan` is all that comes of it."""
        return self._job.dry_run

    @property
    def resumed_by(self) -> str:
        """What the user writes to let it go on."""
        return f"%openhcs resume {self.id}"

    @property
    def stored_at(self) -> str:
        """Where its results are kept, in words."""
        return f"{self._job.folder or self.job.folder} on {self.server}"

    @property
    def status(self) -> RunStatus:
        """``running`` also while it is queued; ``interrupted`` where it rests until its owner does something."""
        with self._news:
            return _STATUS.get(self._state, "running") if self._at >= self._latest else "running"

    @property
    def message(self) -> str:
        """Why the run failed, stopped or waits; empty if it does not."""
        if self.is_planned:
            self._refresh()
            finished = self._seen.finished
            if finished is not None and finished.status == self.status:
                return finished.message
        return self._why

    @property
    def results_at(self) -> str | None:
        """Where saved results are, on the server; None if there are none."""
        return super().results_at if self.is_planned else None

    @property
    def failures(self) -> tuple[UnitFailed, ...]:
        """The units that failed by themselves, with their reasons."""
        return super().failures if self.is_planned else ()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of how the run goes, though it is no failure."""
        return super().notices if self.is_planned else ()

    @property
    def progress(self) -> Progress:
        """How far the run is; nothing before it is compiled."""
        return super().progress if self.is_planned else _NOTHING

    @property
    def where(self) -> str:
        """Where units are done."""
        inner = super().where if self.is_planned else ""
        return f"on {self.server}" + (f", {inner}" if inner else "")

    def events(self, *, follow: bool = True) -> Iterator[AnyEvent]:
        """Iterate over what has happened since the run was first started, as `Run.events` does."""
        if not follow:
            self._wait_until(lambda: self._at >= self._latest)
        return super().events(follow=follow)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended or rests, up to `timeout` seconds; tells whether it has.

        Cuts of the connection and restarts of the server are waited for.
        """
        return self._wait_until(lambda: self.status != "running", timeout)

    def cancel(self) -> None:
        """Stop the job; what is finished is kept.

        Raises
        ------
        ServerError
            If the server cannot be reached within moments.
        """
        self._link.ask(p.Cancel, p.JobIs, job=self.id, patience_s=_CANCEL_S)

    def park(self) -> None:
        """Stop the job until it is asked to go on."""
        self._link.ask(p.Park, p.JobIs, job=self.id)

    def resume(self) -> None:
        """Let a job go on that is parked, cancelled, has failed or needs a login; nothing finished is done again."""
        reply = self._link.ask(p.Resume, p.JobIs, job=self.id)
        with self._news:
            self._state, self._why, self._latest = reply.job.state, reply.job.message, reply.job.events
        self._leave()
        self._leave = self._link.follow(self.id, self._take, self._at)

    def result(self) -> RemoteRun:
        """Wait for the run and return it.

        Raises
        ------
        CompileError
            If the pipeline does not fit the plate, or itself.
        RunError
            If it has not ended well; tells why.
        """
        self.wait()
        if self.status != "done":
            if self._compile_error is not None:
                raise self._compile_error
            raise RunError(self.summary(), f"Mend the cause, then let it go on: {self.resumed_by}")
        return self

    def summary(self) -> str:
        """Say in a few lines how the run ended."""
        if self.is_planned and not self.is_dry:
            return super().summary()
        return f"Run {self.name} (job {self.id}) {told_state(self.state)}" + (
            f": {self.message}" if self.message else ""
        )

    def view(self, viewer: str = "") -> str:
        """Show it in viewers; `viewer` is the line of one that listens. Returns what others open through SSH."""
        return self._link.ask(p.View, p.Shown, job=self.id, viewer=viewer).file

    def log(self) -> str:
        """Return what the job's processes have written to their output."""
        parts: list[bytes] = []
        at = 0
        while True:
            chunk = self._link.ask(p.GetLog, p.Chunk, job=self.id, offset=at)
            parts.append(chunk.data)
            at += len(chunk.data)
            if not chunk.data or at >= chunk.size:
                return b"".join(parts).decode(errors="replace")

    def close(self) -> None:
        """Stop to follow the job; it goes on."""
        self._leave()

    def __repr__(self) -> str:
        return f"<RemoteRun {self.name!r} (job {self.id} on {self.server}): {self.state}>"

    def _take(self, state: JobState, latest: int, events: tuple[JobEvent, ...]) -> None:
        """Take what happened; the link's thread calls it."""
        with self._news:
            self._mirror.note(events)
            for one in events:
                if isinstance(one.event, StateChanged):
                    self._state, self._why = one.event.state, one.event.message
                elif isinstance(one.event, Planned):
                    self._planned += 1
                    self._compile_error = None
                elif isinstance(one.event, NotCompiled):
                    self._compile_error = CompileError(one.event.problems, one.event.source_name)
                elif isinstance(one.event, UnitDone):
                    self._files[one.event.unit] = one.event.files
            if events:
                self._at = events[-1].number
            self._latest = max(self._latest, latest)
            if self._at >= self._latest:
                self._state = state
            self._news.notify_all()

    def _open_plan(self) -> None:
        with self._opening:
            planned = self._planned
            if self._opened == planned:
                return
            self._mirror.fetch_record()
            with self._news:
                self._open(self._mirror.folder, self._mirror.folder.plan(), self._mirror.folder.record())
                self._opened = planned

    def _require_begun(self) -> None:
        while not self.is_planned:
            if self.status != "running":
                raise self._compile_error or RunError(self.summary())
            self._wait_until(lambda: self._opened != self._planned, _LOOK_S)

    def _wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while not condition():
                left = _LOOK_S if end is None else min(_LOOK_S, end - time.monotonic())
                if left <= 0 or not self._link.is_open:
                    return False
                self._news.wait(left)
        return True

    def _folders(self, units: Sequence[tuple[int, str]], spec: ResultSpec) -> list[Path]:
        """Fetch the files of a result, and return where they lie now."""
        prefix = f"{spec.kind}.{spec.name}."
        for unit, key in units:
            names = [file.name for file in self._files.get(unit, ()) if file.name.startswith(prefix)]
            try:
                self._mirror.fetch(f"units/{key}/{name}" for name in names)
            except ServerError as error:
                if error.kind != "gone":
                    raise
                raise RunError(
                    f"{spec.name}: results of run {self.name} ({self.id}) were removed from {self.stored_at}.",
                    "Make them again: submit the cell once more.",
                ) from error
        return super()._folders(units, spec)

    def _require(self, spec: ResultSpec, keys: Sequence[str]) -> None:  # noqa: ARG002 - the interface has it
        """Nothing is checked here of a run: what is missing shows when it is fetched."""
        if self.is_dry:
            raise RunError(f"{spec.name}: job {self.id} was a dry run, which makes no results.", "Leave --dry-run out.")


def told_state(state: JobState) -> str:
    """Say how a job stands, as the end of a sentence."""
    return {"failed": "has failed", "needs_login": "needs a login"}.get(state, f"is {state}")
