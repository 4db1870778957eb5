"""Which wells, fields and channels of a plate a run takes, and whether their planes are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from openhcs_jupyter.compiler.plan import LeftOut
from openhcs_jupyter.compiler.problems import Problems, known
from openhcs_jupyter.model import Channel, Field, Image, ImageKind, Layout, Plate, Well, parse_well, well_name

T = TypeVar("T")


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks for; None takes all there is."""

    wells: tuple[str, ...] | None = None
    fields: tuple[int, ...] | None = None
    """Field numbers, counted from 1."""
    channels: tuple[str, ...] | None = None
    source: ImageKind = "stack"
    """Of a field's images: the stack, or the projection that the microscope saved."""
    skip_missing: bool = False
    """Leave out fields that lack a plane, rather than refuse the run."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What a run takes of a plate."""

    fields: tuple[tuple[Well, Field, Image], ...]
    channels: tuple[int, ...]
    """Indices c of the channels, in plate order."""
    slices: dict[int, tuple[int, ...]]
    """By channel index: the z of its planes at every time point, the same in every field."""
    size_t: int
    left_out: tuple[LeftOut, ...]

    def layouts(self) -> dict[Layout, int]:
        """Count the chosen images by layout."""
        return Counter(image.layout for _, _, image in self.fields)


def choose(plate: Plate, selection: Selection, problems: Problems) -> Chosen:
    """Resolve a selection against a plate; what does not exist becomes a problem, what is left out is told."""
    wells = _wells(plate, selection.wells, problems)
    left_out: list[LeftOut] = []
    fields = _fields(wells, selection, left_out, problems)
    channels = _channels(plate, selection, fields, left_out, problems)
    slices, size_t, fields = _regular(plate, selection, fields, channels, left_out, problems)
    return Chosen(
        fields=tuple(fields), channels=tuple(channels), slices=slices, size_t=size_t, left_out=tuple(left_out)
    )


def _wells(plate: Plate, names: Sequence[str] | None, problems: Problems) -> list[Well]:
    if names is None:
        return list(plate.wells)
    there = {well.name: well for well in plate.wells}
    chosen: dict[str, Well] = {}
    for name in names:
        try:
            full = well_name(*parse_well(name))
        except ValueError as error:
            problems.add(str(error), known(name, there))
            continue
        if full in there:
            chosen[full] = there[full]
        else:
            problems.add(f"plate {plate.name!r} has no images in well {full}", known(full, there))
    return sorted(chosen.values(), key=lambda well: (well.row, well.column))


def _fields(
    wells: Sequence[Well], selection: Selection, left_out: list[LeftOut], problems: Problems
) -> list[tuple[Well, Field, Image]]:
    fields: list[tuple[Well, Field, Image]] = []
    asked = None if selection.fields is None else set(selection.fields)
    seen: set[int] = set()
    for well in wells:
        for field in well.fields:
            if asked is not None and field.number not in asked:
                continue
            seen.add(field.number)
            image = field.image(selection.source)
            if image is None:
                left_out.append(
                    LeftOut(what=f"{well.name} field {field.number}", why=f"it has no {selection.source} image")
                )
            else:
                fields.append((well, field, image))
    if wells and asked is not None and asked - seen:
        numbers = sorted({field.number for well in wells for field in well.fields})
        missing = ", ".join(map(str, sorted(asked - seen)))
        problems.add(f"no chosen well has a field {missing}", f"There are fields {_ranges(numbers)}.")
    elif wells and not fields:
        other = "projection" if selection.source == "stack" else "stack"
        problems.add(f"no chosen field has a {selection.source} image", f"Take the other with --source {other}.")
    return fields


def _channels(
    plate: Plate,
    selection: Selection,
    fields: Sequence[tuple[Well, Field, Image]],
    left_out: list[LeftOut],
    problems: Problems,
) -> list[int]:
    names = [channel.name for channel in plate.channels]
    if selection.channels is not None:
        for name in selection.channels:
            if name not in names:
                problems.add(f"plate {plate.name!r} has no channel {name!r}", known(name, names))
    # Where none of the names is right, the steps are still held against the plate's channels.
    wanted = set(selection.channels or ()) & set(names) or set(names)
    layouts = {image.layout for _, _, image in fields}
    chosen = []
    for c, name in enumerate(names):
        if name not in wanted:
            continue
        if not fields or any(layout.slices(t, c) for layout in layouts for t in range(layout.size_t)):
            chosen.append(c)
            continue
        why = f"it has no plane in the {selection.source} images"
        if selection.channels is None:
            left_out.append(LeftOut(what=f"channel {name}", why=why))
        else:
            problems.add(f"channel {name!r} cannot be taken: {why}", _elsewhere(plate, selection, c))
    return chosen


def _elsewhere(plate: Plate, selection: Selection, c: int) -> str | None:
    other: ImageKind = "projection" if selection.source == "stack" else "stack"
    for _, field in plate.fields():
        image = field.image(other)
        if image is not None and image.layout.slices(0, c):
            return f"Its {other} is there: --source {other}."
    return None


def _regular(
    plate: Plate,
    selection: Selection,
    fields: list[tuple[Well, Field, Image]],
    channels: Sequence[int],
    left_out: list[LeftOut],
    problems: Problems,
) -> tuple[dict[int, tuple[int, ...]], int, list[tuple[Well, Field, Image]]]:
    """Hold every field against what most fields have; report or leave out those that lack a plane."""
    if not fields:
        return dict.fromkeys(channels, ()), 0, fields
    counts = Counter(image.layout for _, _, image in fields)
    size_t = _most({layout: layout.size_t for layout in counts}, counts)
    slices = {c: _most({layout: _slices(layout, c) for layout in counts}, counts) for c in channels}
    lacking = {layout: _lacks(layout, slices, size_t, plate.channels) for layout in counts}
    whole = []
    for well, field, image in fields:
        lack = lacking[image.layout]
        if lack is None:
            whole.append((well, field, image))
            continue
        place = f"{well.name} field {field.number}"
        if selection.skip_missing:
            left_out.append(LeftOut(what=place, why=lack))
        else:
            problems.add(
                f"{place}: {lack}", "Leave such fields out with --skip-missing, or choose --wells or --fields."
            )
    return slices, size_t, whole


def _slices(layout: Layout, c: int) -> tuple[int, ...]:
    return tuple(sorted({z for t in range(layout.size_t) for z in layout.slices(t, c)}))


def _lacks(layout: Layout, slices: dict[int, tuple[int, ...]], size_t: int, channels: Sequence[Channel]) -> str | None:
    if layout.size_t < size_t:
        return f"it has {layout.size_t} time points where others have {size_t}"
    for c, wanted in slices.items():
        for t in range(size_t):
            for z in wanted:
                if not layout.has(t, c, z):
                    time = f", time point {t + 1}" if size_t > 1 else ""
                    return f"channel {channels[c].name!r} has no plane at slice {z + 1}{time}"
    return None


def _most(values: dict[Layout, T], counts: dict[Layout, int]) -> T:
    total: Counter[T] = Counter()
    for layout, value in values.items():
        total[value] += counts[layout]
    return total.most_common(1)[0][0]


def _ranges(numbers: Sequence[int]) -> str:
    if numbers and list(numbers) == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def channel_names(plate: Plate, chosen: Chosen) -> tuple[str, ...]:
    """Name the chosen channels in plate order."""
    return tuple(plate.channels[c].name for c in chosen.channels)
