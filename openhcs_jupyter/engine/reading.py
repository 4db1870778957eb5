"""Reads what a unit needs, ahead of its turn: planes from the repository, results of its parents from the run store."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openhcs_jupyter.compiler.plan import PlannedInput, TakenChannel
from openhcs_jupyter.engine.images import Pixels, Stack
from openhcs_jupyter.engine.program import Parent, Program, Source, Work
from openhcs_jupyter.engine.store import read_array
from openhcs_jupyter.engine.tables import read_tables
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository import PixelSource, Repository

if TYPE_CHECKING:
    import pandas as pd

_PAGE = 4096


class CarriedImages(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit says of the images that it leaves to a later stage."""

    channels: tuple[str, ...]
    fields: tuple[int, ...]
    size_t: int
    slices: dict[str, tuple[int, ...]]


class UnitInputs:
    """What one unit reads.

    Parameters
    ----------
    program
        The run's program.
    work
        The unit.
    repository
        Opens the unit's images.
    """

    def __init__(self, program: Program, work: Work, repository: Repository) -> None:
        self.work = work
        self.bytes_read = 0
        self.read_s = 0.0
        self.failure: Exception | None = None
        self._program = program
        self._repository = repository
        self._stage = program.stages[work.unit.stage]
        self._units = program.run_folder / "units"
        self._opened: dict[int, PixelSource] = {}
        self._ahead: dict[tuple[int, int, str], Stack] = {}
        self._carried: list[tuple[Path, CarriedImages]] | None = None
        self._sources = {source.field: source for source in work.sources}

    @property
    def fields(self) -> tuple[int, ...]:
        """Numbers of the fields whose images the unit starts with."""
        if self._carried is not None:
            return tuple(field for _, carried in self._carried for field in carried.fields)
        return tuple(source.field for source in self.work.sources)

    @property
    def size_t(self) -> int:
        """Time points with which the unit starts."""
        return self._carried[0][1].size_t if self._carried else self._program.size_t

    @property
    def loads(self) -> dict[str, Callable[[int, int], Stack]]:
        """By channel: reads the stack of a field and time point."""
        if self._carried is not None:
            return {name: self._carried_loader(name) for name in self._carried[0][1].channels}
        return {taken.channel.name: self._source_loader(taken) for taken in self._program.channels}

    @property
    def layout(self) -> Layout:
        """Layout of the unit's first image."""
        return self.work.sources[0].image.layout

    def read_ahead(self) -> None:
        """Read all stacks of a unit of one field; wider units read each stack when it is needed.

        Does not raise: what went wrong is kept in `failure`.
        """
        begin = time.perf_counter()
        try:
            self._carried = self._read_carried()
            if self.work.unit.images and self.work.unit.field is not None:
                for taken in self._needed():
                    for t in range(self._program.size_t):
                        field = self.work.unit.field
                        self._ahead[field, t, taken.channel.name] = self._read(self._sources[field], taken, t)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs one unit, which raises it in its turn
            self.failure = error
        self.read_s += time.perf_counter() - begin

    def _needed(self) -> list[TakenChannel]:
        """Channels that the unit's steps take, or all if it leaves its images to a later stage."""
        steps = [self._program.steps[index] for index in self._stage.steps]
        names = {name for step in steps for name in step.channels}
        return [taken for taken in self._program.channels if self._stage.carries or taken.channel.name in names]

    def verify(self) -> None:
        """Check that the images are still as they were read: a map shows what its file holds now."""
        for opened in self._opened.values():
            opened.verify()

    def close(self) -> None:
        """Close the images."""
        for opened in self._opened.values():
            opened.close()
        self._ahead.clear()

    def value(self, entry: PlannedInput, field: int | None, t: int | None, channel: str | None) -> Any:
        """Read an output of an earlier stage for one call: a table, or pixels ``(N, Y, X)``; None if it has none."""
        maker = self._program.steps[entry.step]
        at = channel if entry.by_channel else None
        if entry.kind in ("table", "points"):
            return self.table(entry)
        parents = self._parents_of(entry.step)
        suffix = ".npy" if at is None else f".{maker.channels.index(at)}.npy"
        for parent in parents:
            inside = parent.field is None or field is None or parent.field == field
            many = parent.field is None and parent.well is not None
            name = f"{entry.kind}.{entry.name}{f'.f{field}' if many and field else ''}{suffix}"
            path = self._units / parent.key / name
            if inside and path.exists():
                array: Pixels = read_array(path)
                return array[t if t is not None and t < len(array) else 0]
        return None

    def table(self, entry: PlannedInput) -> pd.DataFrame:
        """Read a table that earlier units made, joined in plate order."""
        paths = [self._units / p.key / f"{entry.kind}.{entry.name}.arrow" for p in self._parents_of(entry.step)]
        return read_tables(paths)

    def states(self, step: int) -> list[Any]:
        """Read the states that a reducer left in the unit's parents, in plate order."""
        paths = (self._units / parent.key / f"state.{step}.pickle" for parent in self.work.parents)
        return [pickle.loads(path.read_bytes()) for path in paths if path.exists()]  # noqa: S301 - written by this run

    def _parents_of(self, step: int) -> list[Parent]:
        stages = [
            stage.index for stage in self._program.stages if step in stage.steps and stage.kind in ("compute", "finish")
        ]
        return [parent for parent in self.work.parents if parent.stage == stages[-1]]

    def _read_carried(self) -> list[tuple[Path, CarriedImages]] | None:
        stage = self._stage
        if stage.kind != "compute" or stage.starts_from is None:
            return None
        places = [self._units / p.key for p in self.work.parents if p.stage == stage.starts_from]
        return [
            (place, msgspec.json.decode((place / "carried.json").read_bytes(), type=CarriedImages)) for place in places
        ]

    def _carried_loader(self, channel: str) -> Callable[[int, int], Stack]:
        def load(field: int, t: int) -> Stack:
            assert self._carried is not None
            for place, carried in self._carried:
                if field in carried.fields:
                    index = carried.channels.index(channel)
                    array = read_array(place / f"carried.f{field}.{index}.npy")[t]
                    self.bytes_read += array.nbytes
                    return Stack(array, carried.slices[channel])
            raise KeyError(field)

        return load

    def _source_loader(self, taken: TakenChannel) -> Callable[[int, int], Stack]:
        def load(field: int, t: int) -> Stack:
            ready = self._ahead.pop((field, t, taken.channel.name), None)
            if ready is not None:
                return ready
            begin = time.perf_counter()
            stack = self._read(self._sources[field], taken, t)
            self.read_s += time.perf_counter() - begin
            return stack

        return load

    def _read(self, source: Source, taken: TakenChannel, t: int) -> Stack:
        image = source.image
        opened = self._opened.get(image.id)
        if opened is None:
            opened = self._opened[image.id] = self._repository.open(image)
        planes = [opened.plane(t, taken.index, z) for z in taken.slices]
        if len(planes) == 1:
            array = planes[0][None]
            _touch(array)
        else:
            array = np.stack(planes)
        self.bytes_read += array.nbytes
        return Stack(array, taken.slices)


def _touch(array: Pixels) -> None:
    """Bring a mapped plane into memory before its turn, without a copy."""
    flat = array.reshape(-1)
    if flat.size:
        flat[:: max(1, _PAGE // flat.itemsize)].max()
