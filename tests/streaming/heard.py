"""What tests of streaming share: a listener that keeps what it hears, and planes by the place they belong to."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.streaming import PlaneRequest, Source
from openhcs_jupyter.streaming.layers import (
    AnyAnnouncement,
    Layer,
    LayerKnown,
    LinkChanged,
    Progressed,
    RunAnnounced,
    RunView,
    StackReady,
    TableReady,
)
from tests.engine.bench import until


class Heard:
    """Keeps what a source announces."""

    def __init__(self, source: Source) -> None:
        self.all: list[AnyAnnouncement] = []
        self._news = threading.Condition()
        self.source = source
        self.end = source.subscribe(self._hear)

    def _hear(self, announcement: AnyAnnouncement) -> None:
        with self._news:
            self.all.append(announcement)
            self._news.notify_all()

    def of(self, kind: type[Any]) -> list[Any]:
        return [announcement for announcement in list(self.all) if isinstance(announcement, kind)]

    def view(self, run: str | None = None) -> RunView:
        return next(a.view for a in reversed(self.of(RunAnnounced)) if run in (None, a.view.id))

    def layer(self, name: str, run: str | None = None) -> Layer:
        known = [a.layer for a in self.of(LayerKnown) if a.layer.name == name and run in (None, a.run)]
        return known[-1] if known else next(layer for layer in self.view(run).layers if layer.name == name)

    def stacks(self, run: str | None = None) -> dict[tuple[int, int, int], StackReady]:
        return {(a.layer, a.well, a.field): a for a in self.of(StackReady) if run in (None, a.run)}

    def tables(self, run: str | None = None) -> dict[tuple[int, int, int], TableReady]:
        return {(a.layer, a.well, a.field): a for a in self.of(TableReady) if run in (None, a.run)}

    def status(self, run: str | None = None) -> RunStatus | None:
        progress = [a for a in self.of(Progressed) if run in (None, a.run)]
        return progress[-1].status if progress else None

    def link(self) -> LinkChanged | None:
        links = self.of(LinkChanged)
        return links[-1] if links else None

    def until_ended(self, run: str | None = None, status: RunStatus = "done", longest_s: float = 60) -> None:
        until(lambda: self.status(run) == status, f"the run to be {status}", longest_s)

    def plane(self, ready: StackReady, t: int = 0, z: int = 0, *, coarse: bool = False) -> np.ndarray:
        request = PlaneRequest(
            run=ready.run, layer=ready.layer, well=ready.well, field=ready.field, t=t, z=z, coarse=coarse
        )
        plane = self.source.fetch(request).result(60)
        assert plane.version == ready.version
        return plane.array
