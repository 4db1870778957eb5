"""What tests of streaming share: a listener that keeps what it hears, and planes by the place they belong to."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import numpy as np

from openhcs_jupyter.engine import Run
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


class Truth:
    """What a run's files hold, by way of the run itself."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def check(self, heard: Heard) -> None:
        """Fetch every plane that was announced, all at once, and compare each with the run's own by hash."""
        view = heard.view(self.run.id)
        wanted = []
        for ready in heard.stacks(self.run.id).values():
            for t in range(ready.size_t):
                for z in range(ready.size_z):
                    request = PlaneRequest(
                        run=ready.run, layer=ready.layer, well=ready.well, field=ready.field, t=t, z=z
                    )
                    wanted.append((request, ready, heard.source.fetch(request)))
        assert wanted
        for request, ready, future in wanted:
            plane = future.result(60)
            assert plane.version == ready.version
            assert digest(plane.array) == digest(self.plane(view, request)), request

    def plane(self, view: RunView, request: PlaneRequest) -> np.ndarray:
        layer = view.layers[request.layer]
        place = {"well": view.wells[request.well].name, "field": view.fields[request.field]}
        if layer.kind == "labels":
            return self.run.labels(layer.result, **place)[request.t, 0, request.z]
        spec = next(spec for spec in self.run.plan.results if (spec.kind, spec.name) == ("image", layer.result))
        return self.run.image(layer.result, **place)[request.t, spec.channels.index(layer.channel), request.z]


def digest(array: np.ndarray) -> str:
    head = f"{array.dtype.name} {array.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(array).tobytes()).hexdigest()
