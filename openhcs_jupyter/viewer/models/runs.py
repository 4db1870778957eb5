"""What is known of each run: its layers, what can be fetched, how far its wells are."""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

import msgspec

from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.streaming.layers import Layer, Progressed, RunView, StackReady, TableReady, WellPlace
from openhcs_jupyter.viewer.models.contrast import Contrast

WellState = Literal["waiting", "working", "done", "failed"]
Place = tuple[int, int, int]
"""Layer, well and field, by their indices in the run."""
_RATE_OVER = 30


class WellLook(NamedTuple):
    """How far one well is."""

    state: WellState
    part: float
    """Of its units that are done, 0 to 1."""
    text: str
    reason: str = ""
    """Why the first of its units failed; empty where none has."""


class RunModel:
    """One run as the viewer knows it."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.status: RunStatus = "running"
        self.done = 0
        self.failed = 0
        self.message = ""
        """Why it failed or stopped, and why units of the whole plate failed."""
        self._reason = ""
        self.stacks: dict[Place, StackReady] = {}
        self.tables: dict[Place, TableReady] = {}
        self.contrasts: dict[int, Contrast] = {}
        """By layer."""
        self.latest: Place | None = None
        """The stack that was announced last."""
        self.wells = {well.name: _look(well, 0, 0) for well in view.wells}
        self._pace: deque[tuple[float, int]] = deque(maxlen=_RATE_OVER)

    def know(self, layer: Layer) -> None:
        """Take a layer's sizes."""
        layers = list(self.view.layers)
        layers[layer.index] = layer
        self.view = msgspec.structs.replace(self.view, layers=tuple(layers))

    def stack(self, ready: StackReady) -> bool:
        """Take that a stack can be fetched; tells whether the layer's contrast has moved."""
        place = (ready.layer, ready.well, ready.field)
        self.stacks[place] = ready
        self.latest = place
        if self.view.layers[ready.layer].kind != "image":
            return False
        return self.contrasts.setdefault(ready.layer, Contrast()).add(ready.low, ready.high)

    def table(self, ready: TableReady) -> None:
        """Take that rows can be fetched."""
        self.tables[ready.layer, ready.well, ready.field] = ready

    def progress(self, told: Progressed, now: float) -> None:
        """Take how far the run is; `now` in seconds, of any clock that does not jump."""
        self.status, self.done, self.failed = told.status, told.done, told.failed
        if told.well is None:
            self._reason = told.reason
        elif told.well < len(self.view.wells):
            well = self.view.wells[told.well]
            self.wells[well.name] = _look(well, told.well_done, told.well_failed, told.reason)
        self.message = "\n".join(text for text in (told.message, self._reason) if text)
        self._pace.append((now, told.done + told.failed))

    def remaining_s(self) -> float | None:
        """Estimate how many seconds the run still needs; None while that cannot be said."""
        if self.status != "running" or len(self._pace) < 2:
            return None
        (then, before), (now, after) = self._pace[0], self._pace[-1]
        left = self.view.units - after
        return left * (now - then) / (after - before) if after > before and now > then else None

    def sentence(self) -> str:
        """Say how far the run is, in one line."""
        said = f"{self.done} of {self.view.units} units"
        if self.status not in ("running", "done"):
            said = f"{self.status}: {said} done"
        elif self.status == "done":
            said = f"done: {said}"
        if self.failed and not self.message:  # which says so
            said += f", {self.failed} failed"
        remaining = self.remaining_s()
        return f"{said}, {_duration(remaining)} left" if remaining is not None else said


def _look(well: WellPlace, done: int, failed: int, reason: str = "") -> WellLook:
    state: WellState = "waiting"
    if failed:
        state = "failed"
    elif done >= well.units:
        state = "done"
    elif done:
        state = "working"
    text = f"{well.name}: {done} of {well.units} units done" + (f", {failed} failed" if failed else "")
    return WellLook(state, min(1.0, done / max(1, well.units)), text, reason)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
