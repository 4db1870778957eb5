"""What a job is, as its owner and the execution server know it: what it does, its states, what happened to it."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import msgspec

from openhcs_jupyter.door.options import RunOptions
from openhcs_jupyter.errors import Problem
from openhcs_jupyter.events import Event, Notice, RunFinished, RunStarted, UnitDone, UnitFailed

JobState = Literal["queued", "compiling", "running", "saving", "parked", "needs_login", "done", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})
"""States that a job leaves only when it is asked to go on."""
RESTING: frozenset[str] = frozenset({"parked", "needs_login"})
"""States in which it waits for its owner."""
ACTIVE: frozenset[str] = frozenset({"compiling", "running", "saving"})
"""States in which it has a process."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[^\W\d]\w{0,127}$")]


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What a job does: source code with small constants, never pickles."""

    name: _Name
    """Of the run."""
    cell: Annotated[str, msgspec.Meta(max_length=2 << 20)]
    """Python that assigns ``pipeline_steps``, with the line numbers of what the user wrote."""
    before: Annotated[str, msgspec.Meta(max_length=2 << 20)] = ""
    """Python that is executed first: what the cell takes from earlier ones, and ``__future__`` imports."""
    modules: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern=r"^([^\W\d]\w*/)*[^\W\d]\w*\.py$", max_length=1024)],
            Annotated[str, msgspec.Meta(max_length=2 << 20)],
        ],
        msgspec.Meta(max_length=1000),
    ] = {}
    """Text of the user's own modules that take part, by path, ``mylab/steps.py``; `door.payload.load` writes them."""
    text: Annotated[str, msgspec.Meta(max_length=2 << 20)] = ""
    """What the user wrote, for the provenance; empty where it is `cell`."""
    text_name: Annotated[str, msgspec.Meta(max_length=256)] = "<pipeline>"
    """Where it stood: ``Cell In[3]``, a file's name."""
    options: RunOptions = RunOptions()
    """The plate, what of it, and how; ``selected`` wells and variables are resolved by the client."""
    viewers: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()
    """Listening viewers that the job calls, by their invitations' lines."""


class StateChanged(Event, frozen=True, kw_only=True, tag="state-changed"):
    """A job has another state."""

    state: JobState
    message: str = ""
    """Why, where that is not plain."""
    attempt: int = 0
    """Counts the job's processes."""


class Planned(Event, frozen=True, kw_only=True, tag="planned"):
    """A job is compiled; its run has an id, and files to fetch: ``run.json``, ``plan.json``, ``plate.json``.

    With the option ``dry_run`` these files are all that is made, in a folder of the job's own.
    """

    run: str
    folder: str
    """Of the run, on the server."""
    plate_id: int
    plate_name: str
    units: int


class NotCompiled(Event, frozen=True, kw_only=True, tag="not-compiled"):
    """A job's pipeline does not fit its plate or itself; it fails."""

    problems: tuple[Problem, ...]
    source_name: str
    """What their lines are lines of."""


AnyJobEvent = StateChanged | Planned | NotCompiled | RunStarted | UnitDone | UnitFailed | Notice | RunFinished


class JobEvent(msgspec.Struct, frozen=True, array_like=True):
    """One thing that happened to a job."""

    number: int
    """Counts from 1 within the job."""
    event: AnyJobEvent


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the server keeps of a job that its owner sees, too."""

    id: str
    key: str
    """That the client made for it."""
    owner: str
    name: str
    """Of its run."""
    plate: str
    """As it was asked for, then the plate's id."""
    plate_name: str = ""
    state: JobState
    message: str = ""
    """Why it failed, was parked, or waits."""
    priority: int = 0
    dry_run: bool = False
    """It is compiled and no more."""
    submitted: float
    """Seconds since the epoch, as all times."""
    started: float | None = None
    """When its first process was."""
    ended: float | None = None
    run: str = ""
    """Id of its run, the same for all its processes."""
    folder: str = ""
    """Of the run, on the server; empty until it is compiled."""
    results: str | None = None
    """Where saved results are."""
    units: int = 0
    done: int = 0
    failed: int = 0
    workers: int = 0
    """Cores that it is leased; 0 where it does not run."""
    devices: tuple[str, ...] = ()
    """GPUs that it is leased."""
    attempts: int = 0
    """Processes that it has had."""
    events: int = 0
    """Number of its latest event."""


class Job(JobFacts, frozen=True, kw_only=True):
    """A job as its owner sees it."""

    ahead: int | None = None
    """Jobs that stand before it in the queue; None where it is not queued."""
    stopping: bool = False
    """It is asked to stop, and has not yet."""


def new_key() -> str:
    """Make the key of a job, before it is submitted for the first time."""
    return os.urandom(16).hex()
