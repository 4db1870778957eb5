"""Reads what a unit needs, ahead of its turn: planes from the repository, results of its parents from the run store."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openhcs_jupyter.compiler.plan import PlannedInput, PlannedStep, TakenChannel
from openhcs_jupyter.engine.devices.base import DeviceLostError
from openhcs_jupyter.engine.images import Key, Pixels, Stack
from openhcs_jupyter.engine.kernels import Kernels, goes_up
from openhcs_jupyter.engine.program import Program, Source, Work
from openhcs_jupyter.engine.store import read_array
from openhcs_jupyter.engine.tables import read_tables
from openhcs_jupyter.engine.waypoints import Waypoint
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
    kernels
        Of the worker's device, where it has one; stacks are sent there ahead.
    """

    def __init__(self, program: Program, work: Work, repository: Repository, kernels: Kernels | None = None) -> None:
        self.work = work
        self._kernels = kernels
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
        self.kept: dict[Key, tuple[Stack, Path]] = {}
        """Stacks of the waypoint, with their files."""
        self._sources = {source.field: source for source in work.sources}
        self.waypoint: Waypoint | None = None
        """Where the unit goes on; None where it starts from its images."""

    @property
    def steps_kept(self) -> int:
        """How many steps of the stage stand before the waypoint and are not to be done."""
        return 0 if self.waypoint is None else self.waypoint.step + 1

    @property
    def steps(self) -> list[PlannedStep]:
        """Steps that are to be done."""
        return [self._program.steps[index] for index in self._stage.steps[self.steps_kept :]]

    @property
    def outputs(self) -> dict[str, Path]:
        """What the steps before the first that is to be done have put out, by the name of the file."""
        start, waypoint = self.work.start, self.waypoint
        return {} if start is None or waypoint is None else {f.name: start.place / f.name for f in waypoint.outputs}

    @property
    def kernels(self) -> Kernels:
        """The kernels of the worker's device.

        Raises
        ------
        DeviceLostError
            If the worker has none: it was given a unit of another one.
        """
        if self._kernels is None:
            raise DeviceLostError(f"this worker has no {self.work.unit.device}")
        return self._kernels

    @property
    def fields(self) -> tuple[int, ...]:
        """Numbers of the fields whose images the unit starts with."""
        if self.waypoint is not None:
            return self.waypoint.fields
        if self._carried is not None:
            return tuple(field for _, carried in self._carried for field in carried.fields)
        return tuple(source.field for source in self.work.sources)

    @property
    def size_t(self) -> int:
        """Time points with which the unit starts."""
        if self.waypoint is not None:
            return self.waypoint.size_t
        return self._carried[0][1].size_t if self._carried else self._program.size_t

    @property
    def loads(self) -> dict[str, Callable[[int, int], Stack]]:
        """By channel: reads the stack of a field and time point."""
        if self._carried is not None:
            loads = {name: self._carried_loader(name) for name in self._carried[0][1].channels}
        else:
            loads = {taken.channel.name: self._source_loader(taken) for taken in self._program.channels}
        if self.waypoint is None:
            return loads
        return {name: self._kept_loader(name, loads.get(name)) for name in self._channels_at(self.waypoint)}

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
            self.waypoint = self._read_waypoint()
            if self.work.unit.images and self.work.unit.field is not None:
                field = self.work.unit.field
                for taken in self._needed():
                    for t in range(self._program.size_t):
                        if (field, t, taken.channel.name) in self.kept:
                            continue
                        stack = self._read(self._sources[field], taken, t)
                        if self._kernels and goes_up(self.steps, taken.channel.name):
                            stack = Stack(self._kernels.ahead(stack.array), stack.slices)
                        self._ahead[field, t, taken.channel.name] = stack
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs one unit, which raises it in its turn
            self.failure = error
        self.read_s += time.perf_counter() - begin

    def _needed(self) -> list[TakenChannel]:
        """Channels that the unit's steps take, or all if it leaves its images to a later stage."""
        names = {name for step in self.steps for name in step.channels}
        return [taken for taken in self._program.channels if self._stage.carries or taken.channel.name in names]

    def verify(self) -> None:
        """Check that the images are still as they were: one that changes may have been read in between."""
        for opened in self._opened.values():
            opened.verify()

    def close(self) -> None:
        """Close the images."""
        for opened in self._opened.values():
            opened.close()
        self._ahead.clear()
        self.kept.clear()

    def value(self, entry: PlannedInput, field: int | None, t: int | None, channel: str | None) -> Any:
        """Read an output of an earlier stage for one call: a table, or pixels ``(N, Y, X)``; None if it has none."""
        maker = self._program.steps[entry.step]
        at = channel if entry.by_channel else None
        if entry.kind in ("table", "points"):
            return self.table(entry)
        suffix = ".npy" if at is None else f".{maker.channels.index(at)}.npy"
        for place, maker_field, wide in self._places_of(entry.step):
            inside = maker_field is None or field is None or maker_field == field
            name = f"{entry.kind}.{entry.name}{f'.f{field}' if wide and field else ''}{suffix}"
            path = place / name
            if inside and path.exists():
                array: Pixels = read_array(path)
                return array[t if t is not None and t < len(array) else 0]
        return None

    def table(self, entry: PlannedInput) -> pd.DataFrame:
        """Read a table that earlier units made, joined in plate order."""
        return read_tables([place / f"{entry.kind}.{entry.name}.arrow" for place, *_ in self._places_of(entry.step)])

    def states(self, step: int) -> list[Any]:
        """Read the states that a reducer left in the unit's parents, in plate order."""
        paths = (self._units / parent.key / f"state.{step}.pickle" for parent in self.work.parents)
        return [pickle.loads(path.read_bytes()) for path in paths if path.exists()]  # noqa: S301 - written by this run

    def _places_of(self, step: int) -> list[tuple[Path, int | None, bool]]:
        """List the folders in which a step's outputs lie, with the field of each, and whether it holds a whole well."""
        start, waypoint, unit = self.work.start, self.waypoint, self.work.unit
        if start is not None and waypoint is not None and step in self._stage.steps[: waypoint.step + 1]:
            return [(start.place, unit.field, unit.field is None)]
        stages = [
            stage.index for stage in self._program.stages if step in stage.steps and stage.kind in ("compute", "finish")
        ]
        return [
            (self._units / parent.key, parent.field, parent.field is None and parent.well is not None)
            for parent in self.work.parents
            if parent.stage == stages[-1]
        ]

    def _read_waypoint(self) -> Waypoint | None:
        start = self.work.start
        waypoint = None if start is None else start.read()
        if start is None or waypoint is None:
            return None
        known = self._channels_at(waypoint)
        try:
            for stack in waypoint.stacks:
                path = start.place / stack.file.name
                array = read_array(path)[0]
                _touch(array)
                self.kept[stack.field, stack.t, stack.channel] = Stack(array, stack.slices), path
                self.bytes_read += array.nbytes
        except (OSError, ValueError):
            self.kept.clear()
            return None
        return waypoint if all(stack.channel in known for stack in waypoint.stacks) else None

    def _channels_at(self, waypoint: Waypoint) -> tuple[str, ...]:
        steps = [self._program.steps[index] for index in self._stage.steps[: waypoint.step + 1]]
        return next(step.channels_after for step in reversed(steps) if step.kind != "table")

    def _kept_loader(self, channel: str, load: Callable[[int, int], Stack] | None) -> Callable[[int, int], Stack]:
        def kept(field: int, t: int) -> Stack:
            found = self.kept.get((field, t, channel))
            if found is not None:
                return found[0]
            if load is None:
                raise KeyError(channel)
            return load(field, t)

        return kept

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
        array = opened.read(t, taken.index, taken.slices)
        self.bytes_read += array.nbytes
        return Stack(array, taken.slices)


def _touch(array: Pixels) -> None:
    """Bring a mapped stack into memory before its turn, without a copy."""
    flat = array.reshape(-1)
    if flat.size:
        flat[:: max(1, _PAGE // flat.itemsize)].max()
