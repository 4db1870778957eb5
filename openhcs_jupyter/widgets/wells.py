"""What each well of a run has come to, packed for the browser: two bytes a well, and why wells failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from openhcs_jupyter.engine.journal import JournalReader
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.events import RunStarted, StoredFile, UnitDone, UnitFailed
from openhcs_jupyter.model import parse_well

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run

ABSENT, WAITING, RUNNING, DONE, FAILED = range(5)
"""A well's state. Absent wells take no part in the run."""
_FORMATS = ((8, 12), (16, 24), (32, 48))


class Finished(NamedTuple):
    """A unit that is done and whose files may be looked at."""

    well: str
    field: int | None
    files: tuple[StoredFile, ...]


class WellStates:
    """Follows a run's journal and keeps the state of its wells.

    Parameters
    ----------
    run
        Of any status.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reader = JournalReader(RunFolder(run.folder).journal)
        plan = run.plan
        names = sorted({unit.well for unit in plan.units if unit.well}, key=parse_well)
        places = [parse_well(name) for name in names]
        self.rows, self.columns = plate_size(places)
        self._index = {name: row * self.columns + column for name, (row, column) in zip(names, places, strict=True)}
        self._units = [self._index[unit.well] if unit.well else -1 for unit in plan.units]
        self._total = [0] * (self.rows * self.columns)
        for at in self._units:
            if at >= 0:
                self._total[at] += 1
        self.count = len(names)
        """Wells that take part."""
        self.latest: list[Finished] = []
        """Units that were finished since this list was last emptied; only the last few are kept."""
        self.pid: int | None = None
        """Process that conducts the run, once it has started."""
        self._clear()

    def _clear(self) -> None:
        self._done = [0] * len(self._total)
        self._why: dict[int, str] = {}
        self._broken: set[int] = set()

    def refresh(self) -> bool:
        """Take in what has happened; tells whether anything has."""
        news = False
        for event in self._reader.read():
            news = True
            if isinstance(event, RunStarted):
                self._clear()
                self.pid = event.pid
            elif isinstance(event, UnitDone) and event.unit < len(self._units):
                self._finish(event)
            elif isinstance(event, UnitFailed) and event.unit < len(self._units):
                self._fail(event)
        return news

    def _finish(self, event: UnitDone) -> None:
        at = self._units[event.unit]
        if at < 0:
            return
        self._done[at] += 1
        unit = self._run.plan.units[event.unit]
        assert unit.well is not None
        self.latest.append(Finished(unit.well, unit.field, event.files))
        del self.latest[:-4]

    def _fail(self, event: UnitFailed) -> None:
        at = self._units[event.unit]
        if at < 0:
            return
        self._broken.add(at)
        if event.because is None and at not in self._why:
            self._why[at] = event.reason

    def packed(self) -> bytes:
        """Return two bytes a well, row by row: its state, and how much of it is done, up to 255."""
        running = {self._units[unit] for unit in self._run.running}
        state = bytearray(2 * len(self._total))
        for at, total in enumerate(self._total):
            if not total:
                continue
            done = self._done[at]
            if at in self._broken:
                code = FAILED
            elif done == total:
                code = DONE
            else:
                code = RUNNING if at in running or done else WAITING
            state[2 * at] = code
            state[2 * at + 1] = 255 * done // total
        return bytes(state)

    def reasons(self) -> tuple[list[str], dict[str, int]]:
        """Return why wells failed: each reason once, and by the well's index the reason's number."""
        numbers: dict[str, int] = {}
        wells = {}
        for at in sorted(self._broken):
            why = self._why.get(at, "left out, as what it needs has failed")
            wells[str(at)] = numbers.setdefault(why, len(numbers))
        return list(numbers), wells


def plate_size(places: list[tuple[int, int]]) -> tuple[int, int]:
    """Return rows and columns of the smallest usual plate that has all these ``(row, column)``, or what they span."""
    rows = max((row for row, _ in places), default=-1) + 1
    columns = max((column for _, column in places), default=-1) + 1
    if rows * columns <= 24 and rows <= 4 and columns <= 6:
        return rows, columns
    for size in _FORMATS:
        if rows <= size[0] and columns <= size[1]:
            return size
    return rows, columns
