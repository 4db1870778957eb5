"""What happens in a run: small values that the journal keeps and that displays, streams and clients follow."""

from __future__ import annotations

import msgspec

from openhcs_jupyter.model import RunStatus

_REASON_LENGTH = 300


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """The base of all events."""

    time: float
    """Seconds since the epoch."""


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """A run begins, or goes on after it was interrupted."""

    units: int
    """Units in the plan."""
    kept: int
    """Of these, units whose results are there already."""
    workers: int
    pid: int
    """Process that conducts the run."""
    where: str = ""
    """Where units are done; empty for the machine of the conductor."""


class StoredFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a unit's results."""

    name: str
    """Relative to the unit's folder."""
    size: int
    """Bytes, checked when the file is used again."""


class UnitDone(Event, frozen=True, kw_only=True, tag="unit-done"):
    """A unit's results are whole and in the run's store."""

    unit: int
    """Index in the plan."""
    fingerprint: str
    files: tuple[StoredFile, ...]
    read_s: float
    compute_s: float
    write_s: float
    bytes_read: int
    reused: bool = False
    """The results come from an earlier run's equal unit."""
    steps_kept: int = 0
    """Steps of its stage that were not done: the unit went on from what an earlier run had kept behind them."""
    bytes_up: int = 0
    """Sent to a GPU since its worker's last unit, which includes what was sent ahead."""
    bytes_down: int = 0
    """Fetched from it."""


class UnitFailed(Event, frozen=True, kw_only=True, tag="unit-failed"):
    """A unit gave no results; the others go on."""

    unit: int
    well: str | None
    field: int | None
    step: str | None
    line: int | None
    """Line of the step in the cell or file."""
    message: str
    traceback: str = ""
    because: int | None = None
    """The unit whose failure left this one without what it needs; None where it failed by itself."""

    @property
    def reason(self) -> str:
        """Say for people why it failed, with field and step, in at most 300 characters."""
        if self.because is not None:
            return "left out, as what it needs has failed"
        field = f"field {self.field}, " if self.field is not None else ""
        step = f"step {self.step}: " if self.step else ""
        return f"{field}{step}{self.message}"[:_REASON_LENGTH]


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """Something that the user should know and that is no failure, such as a GPU that ran out of memory."""

    message: str


class RunFinished(Event, frozen=True, kw_only=True, tag="run-finished"):
    """The run ended; nothing follows but a resumed start."""

    status: RunStatus
    message: str = ""
    results: str | None = None
    """Where saved results lie: a folder or a repository's link."""


AnyEvent = RunStarted | UnitDone | UnitFailed | Notice | RunFinished


class StageProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one stage of a run is, in units."""

    name: str
    total: int
    done: int = 0
    failed: int = 0
    running: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is."""

    stages: tuple[StageProgress, ...]
    elapsed_s: float
    units_per_s: float
    remaining_s: float | None
    """None until a rate is known."""
    bytes_read: int = 0
    reused: int = 0
    """Units whose results were there already, of an earlier run or an earlier start of this one."""
