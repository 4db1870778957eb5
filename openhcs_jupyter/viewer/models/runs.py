"""What is known of each run: its layers, what can be fetched, how far its wells are."""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.streaming.layers import Layer, Progressed, RunView, StackReady, TableReady
from openhcs_jupyter.viewer.models.contrast import Contrast

WellState = Literal["waiting", "working", "done", "failed"]
Place = tuple[int, int, int]
"""Layer, well and field, by their indices in the run."""
_RATE_OVER = 30


class RunModel:
    """One run as the viewer knows it."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.status: RunStatus = "running"
        self.done = 0
        self.failed = 0
        self.message = ""
        self.stacks: dict[Place, StackReady] = {}
        self.tables: dict[Place, TableReady] = {}
        self.contrasts: dict[int, Contrast] = {}
        """By layer."""
        self.latest: Place | None = None
        """The stack that was announced last."""
        self._wells: dict[int, tuple[int, int]] = {}
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
        self.status, self.done, self.failed, self.message = told.status, told.done, told.failed, told.message
        if told.well is not None:
            self._wells[told.well] = (told.well_done, told.well_failed)
        self._pace.append((now, told.done + told.failed))

    def well_state(self, well: int) -> WellState:
        """Say how far a well is."""
        done, failed = self._wells.get(well, (0, 0))
        if failed:
            return "failed"
        if done >= self.view.wells[well].units:
            return "done"
        return "working" if done else "waiting"

    def well_part(self, well: int) -> float:
        """Return the part of a well's units that is done, 0 to 1."""
        done, _ = self._wells.get(well, (0, 0))
        return min(1.0, done / max(1, self.view.wells[well].units))

    def well_sentence(self, well: int) -> str:
        """Say how far a well is."""
        done, failed = self._wells.get(well, (0, 0))
        said = f"{done} of {self.view.wells[well].units} units done"
        return f"{said}, {failed} failed" if failed else said

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
        if self.failed:
            said += f", {self.failed} failed"
        remaining = self.remaining_s()
        if self.status == "running":
            return said + (f", {_duration(remaining)} left" if remaining is not None else "")
        return f"{self.status}: {said}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
