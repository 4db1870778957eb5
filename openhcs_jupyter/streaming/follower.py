"""Follows a run in its store: turns its journal into announcements."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.engine.journal import JournalReader
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.events import AnyEvent, RunFinished, RunStarted, UnitDone, UnitFailed
from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.streaming.layers import (
    AnyAnnouncement,
    Layer,
    LayerKnown,
    Progressed,
    RunAnnounced,
    RunView,
    StackReady,
    TableReady,
)
from openhcs_jupyter.streaming.planes import Measured, measure, read_table
from openhcs_jupyter.streaming.views import split_channels, view_of

_CONDUCTED_S = 1.0
_ALL_UP_TO, _ONE_OF = 16, 4
"""Of each layer so many stacks are measured in full, then one of so many."""
_TOGETHER = 32
"""After so many units that have ended it is told how their wells stand."""
_FILE = re.compile(r"^(?P<name>.*?)(?:\.f(?P<field>\d+))?(?:\.(?P<part>\d+))?$")


class Follower:
    """Follows one run. Used by one thread.

    Parameters
    ----------
    folder
        The run's folder in the run store.

    Raises
    ------
    RunError
        If there is no run that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = RunFolder(folder)
        self._record = self._folder.record()
        self.run_id = self._record.id
        self._size = -1
        self._looked = 0.0
        self._told = False
        self._started = False
        self._begin()
        self._journal = JournalReader(self._folder.journal)

    @property
    def status(self) -> RunStatus:
        """How the run stood when it was last looked at."""
        return self._status

    def announcements(self) -> Iterator[AnyAnnouncement]:
        """Give what has happened since the last call; at the first one, everything.

        Raises
        ------
        RunError
            If plan or plate of a run that started anew cannot be read, or its journal is damaged.
        StreamError
            If its journal cannot be read.
        """
        if not self._told:
            self._told = True
            yield RunAnnounced(view=self.view)
        events = self._new_events()
        last = max((i for i, event in enumerate(events) if isinstance(event, RunStarted)), default=-1)
        if last >= 0:
            events = events[last:]
            if self._started:
                self._begin()
                yield RunAnnounced(view=self.view)
            self._started = True
        for event in events:
            yield from self._take(event)
        yield from self._tell_changed()
        yield from self._check_conducted()

    def _begin(self) -> None:
        plan, plate = self._folder.plan(), self._folder.plate()
        self._plan: ExecutionPlan = plan
        self.view: RunView = view_of(plan, self._record, plate, self._folder.path)
        self._layers = list(self.view.layers)
        self._wells = {well.name: index for index, well in enumerate(self.view.wells)}
        self._fields = {number: index for index, number in enumerate(self.view.fields)}
        self._counts: dict[int | None, list[int]] = {None: [0, 0]}
        self._reasons: dict[int | None, UnitFailed] = {}
        """Of each well the first unit that failed; before all, one that failed by itself."""
        self._total = [0, 0]
        self._changed: dict[int | None, int] = {}
        """Of each well that is not told yet, how many of its units have ended."""
        self._status: RunStatus = "running"
        self._measured: dict[int, tuple[int, tuple[float, float] | None]] = {}
        """By layer: how many stacks there have been, and the limits of one of them."""
        self._index: dict[tuple[str, str], list[int]] = {}
        at = 0
        for spec in plan.results:
            parts = len(list(split_channels(plan, spec)))
            self._index[spec.kind, spec.name] = list(range(at, at + parts))
            at += parts

    def _new_events(self) -> list[AnyEvent]:
        try:
            size = os.stat(self._folder.journal).st_size  # noqa: PTH116 - many times a second
        except FileNotFoundError:
            return []
        if size == self._size:
            return []
        self._size = size
        try:
            return list(self._journal.read())
        except OSError as error:
            raise StreamError(f"The journal of run {self.run_id} cannot be read: {error}") from error

    def _take(self, event: AnyEvent) -> Iterator[AnyAnnouncement]:
        if isinstance(event, RunStarted):
            self._status = "running"
            yield self._progress(None)
        elif isinstance(event, RunFinished):
            yield from self._tell_changed()
            self._status = event.status
            yield self._progress(None, event.message)
        elif isinstance(event, UnitDone | UnitFailed) and event.unit < len(self._plan.units):
            unit = self._plan.units[event.unit]
            well = self._wells.get(unit.well) if unit.well is not None else None
            counts = self._counts.setdefault(well, [0, 0])
            for count in (counts, self._total):
                count[isinstance(event, UnitFailed)] += 1
            if isinstance(event, UnitFailed):
                known = self._reasons.setdefault(well, event)
                if known.because is not None:
                    self._reasons[well] = event
            if isinstance(event, UnitDone) and self._plan.stages[unit.stage].kind in ("compute", "finish"):
                yield from self._results(unit, event)
            self._changed[well] = self._changed.get(well, 0) + 1
            if sum(self._changed.values()) >= _TOGETHER:
                yield from self._tell_changed()

    def _tell_changed(self) -> Iterator[AnyAnnouncement]:
        """Tell how the wells stand of which units have ended, each once."""
        changed, self._changed = self._changed, {}
        for well in changed:
            yield self._progress(well)

    def _results(self, unit: Unit, event: UnitDone) -> Iterator[AnyAnnouncement]:
        unit = msgspec.structs.replace(unit, fingerprint=event.fingerprint)
        for file in event.files:
            stem, _, suffix = file.name.rpartition(".")
            kind, _, rest = stem.partition(".")
            if suffix not in ("npy", "arrow"):
                continue
            found = self._layer_of(kind, rest)
            if found is None:
                continue
            layer, number = found
            path = f"units/{unit.key}/{file.name}"
            well = self._wells.get(unit.well or "", 0)
            field = self._fields.get(number if number is not None else unit.field or 0, 0)
            if self._layers[layer].scope != "field":
                field = 0
            version = event.fingerprint[:16]
            try:
                yield from self._ready(self._layers[layer], well, field, path, version)
            except (OSError, ValueError):
                continue  # an older plan's unit, or results that were removed

    def _layer_of(self, kind: str, rest: str) -> tuple[int, int | None] | None:
        """Find the layer of a file and the number of its field, by its name without kind and suffix."""
        whole = self._index.get((kind, rest))
        if whole:
            return whole[0], None
        match = _FILE.match(rest)
        assert match is not None
        parts = self._index.get((kind, match["name"]))
        part = int(match["part"] or 0)
        if not parts or part >= len(parts):
            return None
        return parts[part], int(match["field"]) if match["field"] else None

    def _ready(self, layer: Layer, well: int, field: int, file: str, version: str) -> Iterator[AnyAnnouncement]:
        path = self._folder.path / file
        if layer.kind in ("table", "points"):
            rows = read_table(path).num_rows
            yield TableReady(
                run=self.run_id, layer=layer.index, well=well, field=field, version=version, file=file, rows=rows
            )
            return
        (size_t, size_z, size_y, size_x), dtype, low, high = self._measure(path, layer)
        if (
            not layer.dtype
            or size_t > layer.size_t
            or size_z > layer.size_z
            or size_y > layer.size_y
            or size_x > layer.size_x
        ):
            grown = msgspec.structs.replace(
                layer,
                dtype=layer.dtype or dtype,
                size_t=max(layer.size_t, size_t),
                size_z=max(layer.size_z, size_z),
                size_y=max(layer.size_y, size_y),
                size_x=max(layer.size_x, size_x),
            )
            self._layers[layer.index] = grown
            yield LayerKnown(run=self.run_id, layer=grown)
        yield StackReady(
            run=self.run_id,
            layer=layer.index,
            well=well,
            field=field,
            version=version,
            file=file,
            size_t=size_t,
            size_z=size_z,
            size_y=size_y,
            size_x=size_x,
            low=low,
            high=high,
        )

    def _measure(self, path: Path, layer: Layer) -> Measured:
        """Measure a stack; of many only some in full, as limits of contrast are those of a layer."""
        count, limits = self._measured.get(layer.index, (0, None))
        fully = count < _ALL_UP_TO or count % _ONE_OF == 0
        found = measure(path, layer.kind, None if fully else limits)
        self._measured[layer.index] = (count + 1, (found.low, found.high))
        return found

    def _progress(self, well: int | None, message: str = "") -> Progressed:
        done, failed = self._counts.get(well, (0, 0))
        first = self._reasons.get(well)
        return Progressed(
            run=self.run_id,
            status=self._status,
            done=self._total[0],
            failed=self._total[1],
            well=well,
            well_done=done,
            well_failed=failed,
            reason=first.reason if first is not None else "",
            message=message,
        )

    def _check_conducted(self) -> Iterator[AnyAnnouncement]:
        """Tell when a run's process has ended before the run did, and when another takes it up."""
        now = time.monotonic()
        if self._status not in ("running", "interrupted") or now - self._looked < _CONDUCTED_S:
            return
        self._looked = now
        status: RunStatus = "running" if self._folder.is_conducted() else "interrupted"
        if status != self._status:
            self._status = status
            yield self._progress(None)
