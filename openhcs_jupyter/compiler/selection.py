"""Which wells, fields and channels of a plate a run takes, and whether their planes are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from openhcs_jupyter.compiler.plan import LeftOut
from openhcs_jupyter.compiler.problems import Problems, known
from openhcs_jupyter.model import Field, Image, ImageKind, Layout, Plate, Well, parse_well, well_name

T = TypeVar("T")

Place: TypeAlias = tuple[Well, Field, Image]
_SHOWN = 3


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


class Absence(NamedTuple):
    """Why a run does not take a channel, and what would make it."""

    why: str
    hint: str | None


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What a run takes of a plate."""

    fields: tuple[Place, ...]
    slices: dict[str, tuple[int, ...]]
    """By channel, in plate order: the z of the planes that it has at every time point."""
    size_t: int
    absent: dict[str, Absence]
    """Channels of the plate that the run does not take."""
    left_out: tuple[LeftOut, ...]


def choose(plate: Plate, selection: Selection, problems: Problems) -> Chosen:
    """Resolve a selection against a plate; what does not exist becomes a problem, what is left out is told.

    Which planes a field should have is what most fields have; `hold_to_usual` then looks at each field.
    """
    left_out: list[LeftOut] = []
    fields = _fields(_wells(plate, selection, problems), selection, left_out, problems)
    layouts = _count_layouts(fields)
    size_t = _most(((layout.size_t, count) for layout, count in layouts.items()), 0)
    slices, absent = _channels(plate, selection, layouts, size_t, problems)
    if selection.channels is None:
        left_out += [LeftOut(what=f"channel {name}", why=absence.why) for name, absence in absent.items()]
    return Chosen(fields=tuple(fields), slices=slices, size_t=size_t, absent=absent, left_out=tuple(left_out))


def hold_to_usual(
    plate: Plate, selection: Selection, chosen: Chosen, taken: Collection[str], problems: Problems
) -> Chosen:
    """Reduce what is chosen to the channels that steps take, and to the fields that have all their planes.

    A field that lacks a plane is a problem, or left out with ``skip_missing``; planes beyond what most fields have are
    not taken, and that is told.
    """
    slices = {name: z for name, z in chosen.slices.items() if name in taken}
    left_out = list(chosen.left_out)
    if selection.channels is not None:
        left_out += [
            LeftOut(what=f"channel {name}", why="no step takes it") for name in chosen.slices if name not in taken
        ]
    by_index = {c: slices[channel.name] for c, channel in enumerate(plate.channels) if channel.name in slices}
    names = [channel.name for channel in plate.channels]
    layouts = _count_layouts(chosen.fields)
    lacking = {layout: _lacks(layout, by_index, chosen.size_t, names) for layout in layouts}
    beyond = {layout: _beyond(layout, by_index, chosen.size_t, names) for layout in layouts}
    whole: list[Place] = []
    faults: dict[str, list[str]] = {}
    not_taken: dict[LeftOut, list[str]] = {}
    for place in chosen.fields:
        layout = place[2].layout
        lack = lacking[layout]
        if lack is None:
            whole.append(place)
            for spare in beyond[layout]:
                not_taken.setdefault(spare, []).append(_name(place))
        elif selection.skip_missing:
            left_out.append(LeftOut(what=_name(place), why=lack))
        else:
            faults.setdefault(lack, []).append(_name(place))
    for spare, places in not_taken.items():
        if len(places) == len(whole):
            left_out.append(spare)
        else:
            left_out += [LeftOut(what=f"{place}, {spare.what}", why=spare.why) for place in places]
    for lack, places in faults.items():
        problems.add(
            f"{_some(places)}: {lack}", "Leave such fields out with --skip-missing, or choose --wells or --fields."
        )
    if chosen.fields and not whole and not faults:
        problems.add(
            "every chosen field lacks a plane of some channel", "Choose --channels, or fields that have the planes."
        )
    return msgspec.structs.replace(chosen, fields=tuple(whole), slices=slices, left_out=tuple(left_out))


def _wells(plate: Plate, selection: Selection, problems: Problems) -> list[Well]:
    if not plate.wells:
        problems.add(f"plate {plate.name!r} has no images")
    if selection.wells is None:
        return list(plate.wells)
    if not selection.wells:
        problems.add("the selection names no well")
    there = {well.name: well for well in plate.wells}
    chosen: dict[str, Well] = {}
    for name in selection.wells:
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


def _fields(wells: Sequence[Well], selection: Selection, left_out: list[LeftOut], problems: Problems) -> list[Place]:
    if not wells:
        return []
    asked = None if selection.fields is None else set(selection.fields)
    if asked is not None:
        there = {field.number for well in wells for field in well.fields}
        if not asked:
            problems.add("the selection names no field", f"There are fields {_ranges(there)}.")
            return []
        if asked - there:
            problems.add(
                f"no chosen well has a field {', '.join(map(str, sorted(asked - there)))}",
                f"There are fields {_ranges(there)}.",
            )
        asked &= there
    fields: list[Place] = []
    for well in wells:
        for field in well.fields:
            if asked is not None and field.number not in asked:
                continue
            image = field.image(selection.source)
            if image is None:
                left_out.append(
                    LeftOut(what=f"{well.name} field {field.number}", why=f"it has no {selection.source} image")
                )
            else:
                fields.append((well, field, image))
        lost = sorted((asked or set()) - {field.number for field in well.fields})
        left_out += [LeftOut(what=f"{well.name} field {number}", why="the well has no such field") for number in lost]
    if not fields and (asked is None or asked):
        other = _other(selection.source)
        problems.add(f"no chosen field has a {selection.source} image", f"Take the other with --source {other}.")
    return fields


def _channels(
    plate: Plate, selection: Selection, layouts: Mapping[Layout, int], size_t: int, problems: Problems
) -> tuple[dict[str, tuple[int, ...]], dict[str, Absence]]:
    """Return the slices of each channel that is taken, and why others are not."""
    names = [channel.name for channel in plate.channels]
    wanted = names if selection.channels is None else selection.channels
    for name in wanted:
        if name not in names:
            problems.add(f"plate {plate.name!r} has no channel {name!r}", known(name, names))
    if not wanted:
        problems.add("the selection names no channel", known("", names))
    slices: dict[str, tuple[int, ...]] = {}
    absent: dict[str, Absence] = {}
    for c, name in enumerate(names):
        if name not in wanted and set(wanted) & set(names):
            absent[name] = Absence("--channels does not name it", f"Add it: --channels {','.join([*wanted, name])}")
            continue
        counts = [(_slices(layout, c, size_t), count) for layout, count in layouts.items()]
        usual = _most(counts, ())
        if not usual and selection.channels is not None:
            # The user wants it: fields that have it say what it should be.
            usual = _most(((z, count) for z, count in counts if z), ())
        if usual or not layouts:
            slices[name] = usual
            continue
        absence = _absence(plate, selection, c, [layout for layout in layouts if _has_any(layout, c)], counts)
        absent[name] = absence
        if selection.channels is not None:
            problems.add(f"channel {name!r} cannot be taken: {absence.why}", absence.hint)
    if not slices and selection.channels is None:
        hints = [absence.hint for absence in absent.values() if absence.hint]
        problems.add("no channel has the planes that a run needs", hints[0] if hints else None)
    return slices, absent


def _absence(
    plate: Plate,
    selection: Selection,
    c: int,
    having: Sequence[Layout],
    counts: Sequence[tuple[tuple[int, ...], int]],
) -> Absence:
    name = plate.channels[c].name
    if not having:
        other = _other(selection.source)
        images = (field.image(other) for _, field in plate.fields())
        elsewhere = any(image is not None and _has_any(image.layout, c) for image in images)
        hint = f"Its {other} is there: --source {other}." if elsewhere else None
        return Absence(f"it has no plane in the {selection.source} images", hint)
    if any(z for z, _ in counts):
        return Absence("most fields have no plane of it", f"To take those that do: --channels {name} --skip-missing.")
    return Absence("none of its slices is there at every time point", None)


def _has_any(layout: Layout, c: int) -> bool:
    if c >= layout.size_c:
        return False
    return layout.size_t * layout.size_z > sum(1 for _, other, _ in layout.missing if other == c)


def _slices(layout: Layout, c: int, size_t: int) -> tuple[int, ...]:
    """List the slices at which a channel has a plane at every time point."""
    if c >= layout.size_c:
        return ()
    missing = {z for t, other, z in layout.missing if other == c and t < size_t}
    return tuple(z for z in range(layout.size_z) if z not in missing)


def _lacks(layout: Layout, slices: Mapping[int, tuple[int, ...]], size_t: int, names: Sequence[str]) -> str | None:
    """Say what a field lacks of what it should have."""
    if layout.size_t < size_t:
        return f"it has {layout.size_t} time points where others have {size_t}"
    for c, wanted in slices.items():
        missing = {(t, z) for t, other, z in layout.missing if other == c} if c < layout.size_c else None
        lacking = [
            (t, z) for t in range(size_t) for z in wanted if missing is None or z >= layout.size_z or (t, z) in missing
        ]
        if lacking:
            t, z = lacking[0]
            time = f", time point {t + 1}" if size_t > 1 else ""
            count = len(lacking) - 1
            more = f"; {count} more {'is' if count == 1 else 'are'} missing" if count else ""
            return f"channel {names[c]!r} has no plane at slice {z + 1}{time}{more}"
    return None


def _beyond(layout: Layout, slices: Mapping[int, tuple[int, ...]], size_t: int, names: Sequence[str]) -> list[LeftOut]:
    """Say which planes of a field are not taken, and why."""
    found = []
    if layout.size_t > size_t:
        found.append(LeftOut(what=f"time points from {size_t + 1}", why=f"most fields have {size_t} time points"))
    for c, wanted in slices.items():
        steady = _slices(layout, c, size_t)
        spare = {
            "most fields do not have them": set(steady) - set(wanted),
            "they are not there at every time point": {
                z for z in range(layout.size_z) if z not in steady and any(layout.has(t, c, z) for t in range(size_t))
            },
        }
        found += [
            LeftOut(what=f"channel {names[c]} slices {_ranges(z + 1 for z in some)}", why=why)
            for why, some in spare.items()
            if some
        ]
    return found


def _count_layouts(places: Iterable[Place]) -> dict[Layout, int]:
    # Images share their layouts; a layout that lacks many planes takes long to compare.
    by_identity: dict[int, tuple[Layout, int]] = {}
    for _, _, image in places:
        layout = image.layout
        by_identity[id(layout)] = (layout, by_identity.get(id(layout), (layout, 0))[1] + 1)
    counts: Counter[Layout] = Counter()
    for layout, count in by_identity.values():
        counts[layout] += count
    return dict(counts)


def _most(values: Iterable[tuple[T, int]], default: T) -> T:
    """Return the value of the highest count; of equal ones the one that holds more."""
    total: Counter[T] = Counter()
    for value, count in values:
        total[value] += count
    size = {value: len(value) if isinstance(value, tuple) else value for value in total}
    return max(total, key=lambda value: (total[value], size[value]), default=default)


def _other(source: ImageKind) -> ImageKind:
    return "projection" if source == "stack" else "stack"


def _name(place: Place) -> str:
    return f"{place[0].name} field {place[1].number}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more fields" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _ranges(numbers: Iterable[int]) -> str:
    """Write numbers briefly: ``1 to 4, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = (f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return ", ".join(shown)
