"""Does a unit's steps and hands over the files of its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from openhcs_jupyter.compiler.plan import PlannedInput, PlannedOutput, PlannedStep, grid_of, made_channels
from openhcs_jupyter.engine.calls import (
    StepError,
    call_function,
    checked_labels,
    split,
)
from openhcs_jupyter.engine.devices.base import Held, closed, on_host
from openhcs_jupyter.engine.images import Images, Key, Pixels, Site
from openhcs_jupyter.engine.program import Program
from openhcs_jupyter.engine.reading import CarriedImages, UnitInputs
from openhcs_jupyter.engine.reducing import States, StepReducer, finish, merge, write_states
from openhcs_jupyter.engine.store import File, Writer, write_array, write_bytes
from openhcs_jupyter.engine.tables import ArrowTable, checked_table, joined, write_table
from openhcs_jupyter.engine.waypoints import Recorder
from openhcs_jupyter.pipeline.chains import ALL, BoundCall
from openhcs_jupyter.pipeline.contracts import Context

if TYPE_CHECKING:
    import pandas as pd

Announce = Callable[[int], None]
"""Is told the index of each step as it begins."""


class Computed(NamedTuple):
    """What a unit leaves."""

    files: Mapping[str, File]
    """Its results by file name; of a unit that failed on its way, those of the steps before."""
    made_by: Mapping[str, int]
    """By file name: position in its stage of the step that makes it."""
    error: StepError | None = None


def compute(program: Program, inputs: UnitInputs, announce: Announce, recorder: Recorder | None = None) -> Computed:
    """Compute one unit.

    Parameters
    ----------
    program
        The run's program.
    inputs
        What the unit reads.
    announce
        Is told the index of each step as it begins.
    recorder
        Keeps what stands between the steps.

    Returns
    -------
    Computed
        What the unit leaves, and why it failed if a step did.

    Raises
    ------
    StepError
        If what a step has put out cannot be written.
    """
    stage = program.stages[inputs.work.unit.stage]
    if stage.kind in ("merge", "finish"):
        announce(stage.steps[0])
        return Computed((merge if stage.kind == "merge" else finish)(program, inputs, stage.steps[0]), {})
    return Computation(program, inputs, announce, recorder).run()


class Computation:
    """One unit of a compute stage."""

    def __init__(self, program: Program, inputs: UnitInputs, announce: Announce, recorder: Recorder | None) -> None:
        self.program = program
        self.inputs = inputs
        self.announce = announce
        self.stage = program.stages[inputs.work.unit.stage]
        self.steps = inputs.steps
        self.recorder = recorder
        self.at = {index: position for position, index in enumerate(self.stage.steps)}
        """Position in the stage of each step."""
        self.is_wide = inputs.work.unit.field is None
        self.images: Images | None = None
        self.pixels: dict[tuple[str, str], dict[Site, Pixels]] = {}
        """By kind and name of an output: its arrays by call."""
        self.tables: dict[tuple[str, str], list[ArrowTable]] = {}
        self.states: dict[int, States] = {}
        self.kept: dict[str, dict[Key, Held]] = {}
        """By the name under which a step's images are kept: its stacks along z."""

    def run(self) -> Computed:
        """Do the steps."""
        if self.stage.carries or any(self.program.steps[index].kind != "table" for index in self.stage.steps):
            self.images = Images(self.inputs.fields, self.inputs.size_t, self.inputs.loads)
        done = self._begin()
        error: StepError | None = None
        try:
            for group in _groups(self.steps):
                if group[0].kind == "table":
                    self._table(group[0])
                elif group[0].stack == "z":
                    self._along_z(group)
                else:
                    self._along(group[0])
                self._passed(group)
                done += group
        except StepError as raised:
            if self.recorder is None:
                raise
            error = raised
        made_by: dict[str, int] = {}
        files: dict[str, File] = {}
        for name, path in self.inputs.outputs.items():
            files[name], made_by[name] = path, -1
        for step in done:
            for name, file in self._kept_files(step):
                # What is kept of its images does not belong to a way that ends with the step.
                files[name], made_by[name] = file, self.at[step.index] + 1
            for name, file in self._files(step):
                files[name], made_by[name] = file, self.at[step.index]
        if error is None and self.stage.carries and self.images is not None:
            for name, file in _carry(self.images, self.stage.steps[-1]):
                files[name], made_by[name] = file, len(self.stage.steps)
        return Computed(files, made_by, error)

    def _begin(self) -> list[PlannedStep]:
        """Go on from a waypoint: take the images that are to be kept of its step; returns that step."""
        waypoint, images = self.inputs.waypoint, self.images
        if waypoint is None or images is None:
            return []
        for key, (stack, path) in self.inputs.kept.items():
            images.changed.add(key)
            if self.recorder is not None:
                self.recorder.found(key, stack, path)
        step = self.program.steps[self.stage.steps[waypoint.step]]
        if step.keep_as is not None:
            self.kept[step.keep_as] = {key: images.get(*key).array for key in images.keys(made_channels(step))}
        return [step]

    def _passed(self, group: Sequence[PlannedStep]) -> None:
        """Tell the recorder that a group of steps is done."""
        if self.recorder is None:
            return
        if self.images is not None and (group[0].kind == "table" or group[0].stack != "z"):
            for key in sorted(self.images.changed):
                self._stack_passed(group[0], key)
        self.recorder.ended([self.at[step.index] for step in group], self.images)

    def _stack_passed(self, step: PlannedStep, key: Key) -> None:
        if self.recorder is not None and self.images is not None and key in self.images.changed:
            self.recorder.passed(self.at[step.index], key, self.images.get(*key))

    # Steps along z go stack by stack through all of them, so that only one stack is held in its intermediate forms.
    def _along_z(self, group: Sequence[PlannedStep]) -> None:
        images = self.images
        assert images is not None
        for key in images.keys(images.channels):
            field, t, channel = key
            for step in group:
                if channel in step.channels:
                    self._do_along_z(step, key)
                self._stack_passed(step, key)
            if self.steps[-1] is group[-1] and not self.stage.carries:
                images.drop(field, t, channel)
            elif self.is_wide:
                images.bring_down(key)

    def _do_along_z(self, step: PlannedStep, key: Key) -> None:
        images = self.images
        assert images is not None
        self.announce(step.index)
        stack = images.get(*key)
        site = Site(*key, None)
        if step.kind == "reducer":
            self._update(step, site, stack.array)
            return
        image, outputs = self._call(step, site, stack.array)
        images.put(*key, image)
        self._take(step, site, outputs)
        if step.keep_as is not None:
            # All of a well would fill the device; what a field keeps comes down when it is written.
            self.kept.setdefault(step.keep_as, {})[key] = on_host(image) if self.is_wide else image

    def _along(self, step: PlannedStep) -> None:
        images = self.images
        assert images is not None
        self.announce(step.index)
        results: dict[Site, Held] = {}
        try:
            for site, stack in images.stacks(step.stack, step.channels):
                if step.kind == "reducer":
                    self._update(step, site, stack)
                    continue
                image, outputs = self._call(step, site, stack)
                if image is not stack:
                    results[site] = image
                self._take(step, site, outputs)
            if results:
                images.replace(step.stack, step.channels, step.channels_after, results)
        except ValueError as error:
            raise StepError(step.index, str(error)) from None
        if step.keep_as is not None:
            self.kept[step.keep_as] = {key: images.get(*key).array for key in images.keys(made_channels(step))}

    def _call(self, step: PlannedStep, site: Site, stack: Held) -> tuple[Held, tuple[Any, ...]]:
        """Pass a stack through the chain of its channel."""
        key = site.channel if site.channel in step.chains else ALL
        calls = self.program.calls[step.index][key]
        uses = step.chains[key]
        outputs: tuple[Any, ...] = ()
        for position, (call, use) in enumerate(zip(calls, uses, strict=True)):
            extra = {name: self._input(step, name, site) for name in use.takes}
            if use.takes_context:
                extra["context"] = self._context(step, site, position)
            if use.memory == "cupy":
                begin = time.perf_counter()
                result = self.inputs.kernels.call(step, call, use, stack, extra)
                self._took(step, begin)
            else:
                stack = on_host(stack)
                result = self._timed(step, call, (stack,), extra)
            last = position == len(calls) - 1
            stack, outputs = split(step, call, stack, result, step.outputs if last else ())
            closed(stack)
        return stack, outputs

    def _timed(self, step: PlannedStep, call: BoundCall, args: tuple[Any, ...], extra: dict[str, Any]) -> Any:
        begin = time.perf_counter()
        result = call_function(step, call, args, extra)
        self._took(step, begin)
        return result

    def _took(self, step: PlannedStep, begin: float) -> None:
        if self.recorder is not None:
            self.recorder.timed(step.index, time.perf_counter() - begin)

    def _update(self, step: PlannedStep, site: Site, stack: Held) -> None:
        reducer = StepReducer(self.program, step)
        states = self.states.setdefault(step.index, {})
        state = states[site.channel] if site.channel in states else reducer.init()
        states[site.channel] = reducer.update(state, on_host(stack))

    def _table(self, step: PlannedStep) -> None:
        self.announce(step.index)
        call = self.program.calls[step.index][ALL][0]
        use = step.chains[ALL][0]
        extra: dict[str, Any] = {entry.keyword: self._table_of(entry) for entry in step.inputs}
        if use.takes_context:
            extra["context"] = self._context(step, Site(None, None, None, None))
        result = self._timed(step, call, (), extra)
        values = result if isinstance(result, tuple) else (result,)
        if len(values) != len(step.outputs):
            raise StepError(
                step.index, f"{call.name} returned {len(values)} tables, and the step names {len(step.outputs)}"
            )
        for output, value in zip(step.outputs, values, strict=True):
            self._keep_table(step, output, value, {})

    def _take(self, step: PlannedStep, site: Site, values: tuple[Any, ...]) -> None:
        for output, value in zip(step.outputs, values, strict=True):
            if output.kind in ("labels", "image"):
                pixels = checked_labels(step, output.name, value, output.kind)
                at = site if output.by_channel else site._replace(channel=None)
                made = self.pixels.setdefault((output.kind, output.name), {})
                made.update(self._spread(step, output.name, at, pixels))
                continue
            where: dict[str, str | int] = {}
            if site.field:
                where["field"] = site.field
            if site.t is not None and self.program.size_t > 1:
                where["t"] = site.t + 1
            if output.by_channel and site.channel is not None:
                where["channel"] = site.channel
            if site.z is not None and self._depth(step, site) > 1:
                where["z"] = site.z + 1
            self._keep_table(step, output, value, where)

    def _spread(self, step: PlannedStep, name: str, site: Site, pixels: Pixels) -> dict[Site, Pixels]:
        """Give the planes of an output back to the fields or time points of the stack that they were made from."""
        assert self.images is not None
        if step.stack == "z" or len(pixels) == 1:
            return {site: pixels}
        if step.stack == "field" and len(pixels) == len(self.images.fields):
            return {site._replace(field=f): plane[None] for f, plane in zip(self.images.fields, pixels, strict=True)}
        if step.stack == "t" and len(pixels) == len(self.images.times):
            return {site._replace(t=t): plane[None] for t, plane in zip(self.images.times, pixels, strict=True)}
        raise StepError(
            step.index, f"{name!r} has {len(pixels)} planes; made along {step.stack}, it has one for each call"
        )

    def _depth(self, step: PlannedStep, site: Site) -> int:
        assert self.images is not None
        field = self.images.fields[0] if site.field is None else site.field
        return len(self.images.get(field, site.t or 0, site.channel or step.channels[0]).slices)

    def _keep_table(self, step: PlannedStep, output: PlannedOutput, value: Any, where: dict[str, str | int]) -> None:
        """Keep a table, with plate, well and field before its own columns."""
        unit = self.inputs.work.unit
        place: dict[str, str | int] = {"plate": self.program.plate_name}
        if unit.well is not None:
            place["well"] = unit.well
        if unit.field is not None:
            place["field"] = unit.field
        table = checked_table(step, output.name, value, place | where)
        self.tables.setdefault((output.kind, output.name), []).append(table)

    def _input(self, step: PlannedStep, keyword: str, site: Site) -> Any:
        entry = next(entry for entry in step.inputs if entry.keyword == keyword)
        if entry.kind in ("table", "points"):
            table = self._table_of(entry)
            if site.field and "field" in table.columns:
                table = table[table["field"] == site.field]
            return table[table["channel"] == site.channel] if entry.by_channel else table
        value = self._pixels_of(entry, site)
        if value is None:
            raise StepError(step.index, f"its input {entry.name!r} is not there")
        if site.z is None:
            return value
        return value[site.z if len(value) > 1 else 0]

    def _pixels_of(self, entry: PlannedInput, site: Site) -> Pixels | None:
        made = self.pixels.get((entry.kind, entry.name))
        if made is None:
            found: Pixels | None = self.inputs.value(entry, site.field, site.t, site.channel)
            return found
        channel = site.channel if entry.by_channel else None
        return _gather(made, site.field, site.t, channel)

    def _table_of(self, entry: PlannedInput) -> pd.DataFrame:
        made = self.tables.get((entry.kind, entry.name))
        frame: pd.DataFrame = self.inputs.table(entry) if made is None else joined(made).to_pandas()
        field = self.inputs.work.unit.field
        if field is not None and "field" in frame.columns:
            return frame[frame["field"] == field].reset_index(drop=True)
        return frame

    def _context(self, step: PlannedStep, site: Site, position: int = 0) -> Context:
        """Return what a function is told, by its position in the step's chain."""
        unit = self.inputs.work.unit
        sources = self.inputs.work.sources
        layout = self.inputs.layout if sources else None
        slices: tuple[int, ...] = ()
        if self.images is not None and site.field is not None:
            channel = site.channel or step.channels[0]
            every = self.images.get(site.field, site.t or 0, channel).slices
            slices = every if site.z is None else (every[site.z],)
        positions = {source.field: source.position_um for source in sources}
        wanted = [site.field] if site.field else list(positions)
        grid = grid_of(step, step.channels if site.channel is None else (site.channel,), position)
        pixel_size = layout.pixel_size_um if layout else None
        return Context(
            plate=self.program.plate_name,
            well=unit.well or "",
            field=site.field or unit.field,
            channel=site.channel,
            channels=step.channels if site.channel is None else (site.channel,),
            t=site.t,
            z=slices,
            pixel_size_um=pixel_size * grid.factor if pixel_size and grid else None,
            z_step_um=layout.z_step_um if layout else None,
            positions_um=tuple(positions.get(field) for field in wanted),
            fields=tuple(wanted),
            t_step_s=layout.t_step_s if layout else None,
        )

    def _kept_files(self, step: PlannedStep) -> Iterator[tuple[str, Writer]]:
        """Iterate over the files of the images that are kept of a step."""
        wide = self.inputs.work.unit.field is None
        stacks = self.kept.get(step.keep_as) if step.keep_as is not None else None
        if stacks:
            channels = tuple(dict.fromkeys(key[2] for key in stacks))
            for index, channel in enumerate(channels):
                for field in dict.fromkeys(key[0] for key in stacks):
                    arrays = [a for (f, _, c), a in stacks.items() if f == field and c == channel]
                    name = f"image.{step.keep_as}{_mark(field, wide)}.{index}.npy"
                    yield name, _times(step.index, str(step.keep_as), arrays)

    def _files(self, step: PlannedStep) -> Iterator[tuple[str, Writer]]:
        """Iterate over the files of what a step puts out."""
        for output in step.outputs:
            yield from self._output_files(step, output, self.inputs.work.unit.field is None)
        if step.index in self.states:
            yield from write_states(step.index, self.states[step.index]).items()

    def _output_files(self, step: PlannedStep, output: PlannedOutput, wide: bool) -> Iterator[tuple[str, Writer]]:
        made = self.pixels.get((output.kind, output.name))
        if made:
            channels: Sequence[str | None] = step.channels if output.by_channel else (None,)
            for field in dict.fromkeys(site.field for site in made):
                times = dict.fromkeys(site.t for site in made)
                for index, channel in enumerate(channels):
                    arrays = [_gather(made, field, t, channel) for t in times]
                    mark = _mark(field or 0, wide) + (f".{index}" if output.by_channel else "")
                    present = [array for array in arrays if array is not None]
                    yield f"{output.kind}.{output.name}{mark}.npy", _times(step.index, output.name, present)
        tables = self.tables.get((output.kind, output.name))
        if tables:
            yield f"{output.kind}.{output.name}.arrow", write_table(joined(tables))


def _groups(steps: Sequence[PlannedStep]) -> list[list[PlannedStep]]:
    """Join steps along z that follow each other, unless one takes what another of them makes."""
    groups: list[list[PlannedStep]] = []
    for step in steps:
        last = groups[-1] if groups else []
        needs = {entry.step for entry in step.inputs}
        alike = bool(last) and all(s.kind != "table" and s.stack == "z" for s in (*last, step))
        if alike and not needs & {s.index for s in last}:
            last.append(step)
        else:
            groups.append([step])
    return groups


def _gather(made: dict[Site, Pixels], field: int | None, t: int | None, channel: str | None) -> Pixels | None:
    """Find an output's pixels for one field, time point and channel, planes of single calls joined along z."""
    import numpy as np

    planes = [
        pixels
        for site, pixels in made.items()
        if site.channel == channel
        and (site.field is None or field is None or site.field == field)
        and (site.t is None or t is None or site.t == t)
    ]
    if not planes:
        return None
    return planes[0] if len(planes) == 1 else np.concatenate(planes)


def _carry(images: Images, last: int) -> Iterator[tuple[str, Writer]]:
    slices: dict[str, tuple[int, ...]] = {}
    for index, channel in enumerate(images.channels):
        for field in images.fields:
            stacks = [images.get(field, t, channel) for t in images.times]
            slices[channel] = stacks[0].slices
            yield f"carried.f{field}.{index}.npy", _times(last, channel, [stack.array for stack in stacks])
    said = CarriedImages(channels=images.channels, fields=images.fields, size_t=len(images.times), slices=slices)
    yield "carried.json", write_bytes(msgspec.json.encode(said))


def _times(step: int, name: str, arrays: Sequence[Held]) -> Writer:
    """Return the writer of a stack's time points; what lies on a device comes down when it is written."""
    try:
        return write_array(arrays)
    except ValueError as error:
        raise StepError(step, f"{name}: {error}") from None


def _mark(field: int, wide: bool) -> str:
    return f".f{field}" if wide and field else ""
