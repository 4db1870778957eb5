"""Plates of Yokogawa CV7000 and CV8000 microscopes: one folder of images with an index and settings in XML.

``MeasurementData.mlf`` lists the images with their places, ``MeasurementDetail.mrf`` has pixel sizes, the ``.mes`` file
that it names describes the channels, the ``.wpi`` file the plate. ``DC_*`` and ``SC_*`` are images for correction.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, parse_well
from openhcs_jupyter.repository.embedded.formats.base import FoundPlate, Progress, Reader, WellPlace
from openhcs_jupyter.repository.embedded.formats.folders import files_in, holders, some, the_only
from openhcs_jupyter.repository.embedded.formats.indexed import LARGEST_PLATE, Index, Listed, find_planes
from openhcs_jupyter.repository.embedded.formats.metadata import moment, positive, real, told_apart, whole
from openhcs_jupyter.repository.embedded.formats.xml_files import attributes, elements, local

_INDEX, _DETAIL = "MeasurementData.mlf", "MeasurementDetail.mrf"
_SUFFIXES = (".mlf", ".mrf", ".mes", ".wpi")
_NAME = re.compile(
    r"^(?P<plate>.*)_(?P<well>[A-Z]{1,2}[0-9]{1,2})_T(?P<t>[0-9]{1,6})F(?P<field>[0-9]{1,5})L(?P<timeline>[0-9]{1,4})"
    r"A(?P<action>[0-9]{1,4})Z(?P<z>[0-9]{1,5})C(?P<channel>[0-9]{1,4})\.tiff?$",
    re.IGNORECASE | re.DOTALL,
)
_CORRECTION = re.compile(r"^[DS]C_.*\.tiff?$", re.IGNORECASE)
_BAND = re.compile(r"^\D*([0-9]{3,4})/[0-9]+")
_COLOR = re.compile(r"^#(?:[0-9A-F]{2})?([0-9A-F]{6})$", re.IGNORECASE)


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of an image file says."""

    plate: str
    row: int
    column: int
    """Of the well, from 0."""
    t: int
    field: int
    timeline: int
    action: int
    z: int
    channel: int
    """As written, from 1."""


def parse_name(name: str) -> ImageName | None:
    """Read the name of an image file; None where it is not one."""
    match = _NAME.match(name)
    if match is None:
        return None
    try:
        row, column = parse_well(match["well"])
    except ValueError:
        return None
    return ImageName(
        plate=match["plate"],
        row=row,
        column=column,
        t=int(match["t"]),
        field=int(match["field"]),
        timeline=int(match["timeline"]),
        action=int(match["action"]),
        z=int(match["z"]),
        channel=int(match["channel"]),
    )


class Yokogawa(Reader):
    """Reads the folders that CV7000 and CV8000 write."""

    name = "Yokogawa"
    looks_for = f"{_INDEX} beside TIFF files (CV7000, CV8000)"

    def recognise(self, folder: Path) -> float:
        """Tell how sure the reader is: 1 with the index, 0.6 with other files of such a measurement only."""
        if holders(folder, _has_index):
            return 1.0
        return 0.6 if holders(folder, _has_any) else 0.0

    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in or below `folder`."""
        root = the_only(folder, holders(folder, _has_index) or holders(folder, _has_any), self.looks_for)
        files = files_in(root)
        index = next((name for name in files if name.lower() == _INDEX.lower()), None)
        if index is None:
            raise RepositoryError(
                f"{root} holds a Yokogawa measurement without {_INDEX}.",
                "That file says what each image is. Copy it from the microscope, or import with --pattern.",
            )
        detail = _read_detail(root, files)
        setting = _read_setting(root, files, detail.setting)
        plate = _read_plate(root, files)
        listed, problems = _read_index(root / index)
        found = find_planes(
            Index(root=root, name=index, listed=listed, sizes=detail.sizes),
            files,
            contradicts=_contradicts,
            is_other=lambda name: _CORRECTION.match(name) is not None,
            progress=progress,
        )
        channels, lines = _channels(found.channels, setting.channels, setting.name)
        pixel_size, more = _pixel_size(found.channels, detail.pixel_sizes)
        return FoundPlate(
            name=plate.get("Name") or detail.title or root.name,
            format=self.name,
            root=root,
            channels=channels,
            planes=found.planes,
            fields=found.fields,
            pixel_size_um=pixel_size,
            z_step_um=found.z_step_um,
            t_step_s=found.t_step_s,
            rows=whole(plate.get("Rows")) or detail.rows,
            columns=whole(plate.get("Columns")) or detail.columns,
            problems=(*problems, *detail.problems, *setting.problems, *lines, *more, *found.problems),
        )


class _Detail(msgspec.Struct, frozen=True, kw_only=True):
    """What the .mrf file says."""

    title: str = ""
    rows: int | None = None
    columns: int | None = None
    setting: str = ""
    """Name of the .mes file."""
    pixel_sizes: dict[int, float] = {}
    sizes: dict[int, tuple[int, int]] = {}
    problems: tuple[str, ...] = ()


class _Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What the .mes file says."""

    name: str = ""
    channels: dict[int, dict[str, str]] = {}
    problems: tuple[str, ...] = ()


def _has_index(names: Collection[str]) -> bool:
    return any(name.lower() == _INDEX.lower() for name in names)


def _has_any(names: Collection[str]) -> bool:
    return any(name.lower().endswith(_SUFFIXES) for name in names)


def _read_index(path: Path) -> tuple[list[Listed], list[str]]:
    records: list[tuple[Listed, int]] = []
    errors: Counter[str] = Counter()
    broken = 0
    for element in elements(path, "MeasurementRecord"):
        values = attributes(element)
        if values.get("Type") == "ERR":
            errors[f"row {values.get('Row', '?')} column {values.get('Column', '?')}"] += 1
            continue
        record = _record(values, element.text or "")
        if record is None:
            broken += 1
        else:
            records.append((record, whole(values.get("TimelineIndex")) or 1))
    problems = []
    if errors:
        problems.append(f"{path.name} tells of {errors.total()} error(s) of the microscope, at {some(errors)}")
    if broken:
        problems.append(f"{broken} record(s) in {path.name} are not whole and were left out")
    listed = _with_times(records)
    if all(one.kind == "projection" for one in listed):
        listed = [msgspec.structs.replace(one, kind="stack") for one in listed]
    return listed, problems


def _record(values: Mapping[str, str], text: str) -> Listed | None:
    numbers = [whole(values.get(key)) for key in ("Row", "Column", "FieldIndex", "Ch", "TimePoint", "ZIndex")]
    file = text.strip().replace("\\", "/").rpartition("/")[2]
    row, column, field, channel, t, z = numbers
    if row is None or column is None or field is None or channel is None or t is None or not file:
        return None
    processed = values.get("ZImageProcessing", "")
    if not (1 <= row <= LARGEST_PLATE[0] and 1 <= column <= LARGEST_PLATE[1] and field >= 1):
        return None
    if z is None and not processed:
        return None
    y, x = real(values.get("Y")), real(values.get("X"))
    return Listed(
        row=row - 1,
        column=column - 1,
        field=field,
        kind="projection" if processed else "stack",
        channel=channel,
        t=t,
        z=1 if z is None or processed else z,
        file=file,
        # The stage's y grows upwards. 0 - y, because -0.0 is not nice to see.
        position=None if y is None or x is None else (0 - y, x),
        height=real(values.get("Z")),
        acquired=moment(values.get("Time")),
    )


def _with_times(records: Sequence[tuple[Listed, int]]) -> list[Listed]:
    """Count the time points of each well from 1.

    TimePoint goes on counting from one timeline to the next, and a well may be in some timelines only. So wells of the
    same timelines share their time points.
    """
    timelines: dict[WellPlace, set[int]] = defaultdict(set)
    for one, timeline in records:
        timelines[one.row, one.column].add(timeline)
    groups = {well: frozenset(members) for well, members in timelines.items()}
    if len(set(groups.values())) <= 1:
        return [one for one, _ in records]
    points: dict[frozenset[int], set[int]] = defaultdict(set)
    for one, _ in records:
        points[groups[one.row, one.column]].add(one.t)
    ranks = {group: {t: rank for rank, t in enumerate(sorted(times), 1)} for group, times in points.items()}
    return [msgspec.structs.replace(one, t=ranks[groups[one.row, one.column]][one.t]) for one, _ in records]


def _read_detail(root: Path, files: Collection[str]) -> _Detail:
    name = next((name for name in sorted(files) if name.lower() == _DETAIL.lower()), None)
    if name is None:
        return _Detail(problems=(f"{_DETAIL} is not there: the size of a pixel is not known",))
    whole_plate: dict[str, str] = {}
    pixel_sizes: dict[int, float] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for element in elements(root / name, "MeasurementChannel", "MeasurementDetail"):
        values = attributes(element)
        if local(element.tag) == "MeasurementDetail":
            whole_plate = values
        elif (channel := whole(values.get("Ch"))) is not None:
            if size := positive(values.get("HorizontalPixelDimension")):
                pixel_sizes[channel] = size
            y, x = whole(values.get("VerticalPixels")), whole(values.get("HorizontalPixels"))
            if y and x:
                sizes[channel] = (y, x)
    return _Detail(
        title=whole_plate.get("Title", ""),
        rows=whole(whole_plate.get("RowCount")),
        columns=whole(whole_plate.get("ColumnCount")),
        setting=whole_plate.get("MeasurementSettingFileName", ""),
        pixel_sizes=pixel_sizes,
        sizes=sizes,
    )


def _read_setting(root: Path, files: Collection[str], named: str) -> _Setting:
    there = sorted(name for name in files if name.lower().endswith(".mes"))
    name = next((name for name in there if name.lower() == named.lower()), None)
    problems = []
    if name is None and len(there) == 1:
        name = there[0]
        if named:
            problems.append(f"{_DETAIL} names {named}, which is not there; channels are named by {name}")
    if name is None:
        what = f"{named} is not there" if named else f"Of {len(there)} .mes files none is the plate's for sure"
        return _Setting(problems=(f"{what}: channels are named by their numbers",))
    channels: dict[int, dict[str, str]] = {}
    lamps: dict[str, str] = {}
    for element in elements(root / name, "LightSource", "Channel"):
        values = attributes(element)
        if local(element.tag) == "LightSource":
            lamps[values.get("Name", "")] = values.get("WaveLength", "")
            continue
        lit = [(child.text or "").strip() for child in element if local(child.tag) == "LightSourceName"]
        if len(lit) == 1:
            values["WaveLength"] = lamps.get(lit[0], "")
        if (channel := whole(values.get("Ch"))) is not None:
            if channel in channels:
                problems.append(f"{name} describes channel {channel} twice; the first is taken")
            channels.setdefault(channel, values)
    return _Setting(name=name, channels=channels, problems=tuple(problems))


def _read_plate(root: Path, files: Collection[str]) -> dict[str, str]:
    name = next((name for name in sorted(files) if name.lower().endswith(".wpi")), None)
    if name is None:
        return {}
    return next((attributes(element) for element in elements(root / name, "WellPlate")), {})


def _channels(
    numbers: Sequence[int], described: Mapping[int, Mapping[str, str]], source: str
) -> tuple[tuple[Channel, ...], list[str]]:
    """Name the channels by their dyes where all have one, else by what the user called them, else by their filters."""
    values = [described.get(number, {}) for number in numbers]
    problems = [f"{source} does not describe channel {n}" for n in numbers if described and n not in described]
    marks = [f"C{number:02d}" for number in numbers]
    choices = [[one.get(key, "").strip() for one in values] for key in ("Fluorophore", "Target", "Acquisition")]
    clear = [names for names in choices if all(names) and len(set(names)) == len(names)]
    named = next(iter(clear), None) or next((names for names in choices if any(names)), choices[0])
    names, lines = told_apart(named, marks, source)
    channels = []
    for name, one in zip(names, values, strict=True):
        band, color = _BAND.match(one.get("Acquisition", "")), _COLOR.match(one.get("Color", ""))
        channels.append(
            Channel(
                name=name,
                emission_nm=float(band[1]) if band else None,
                excitation_nm=positive(one.get("WaveLength")),
                color=color[1].upper() if color else None,
            )
        )
    return tuple(channels), problems + lines


def _pixel_size(numbers: Sequence[int], sizes: Mapping[int, float]) -> tuple[float | None, list[str]]:
    known = {number: sizes[number] for number in numbers if number in sizes}
    if len(set(known.values())) > 1:
        told = ", ".join(f"{size} um in channel {number}" for number, size in known.items())
        return next(iter(known.values())), [f"{_DETAIL} has several pixel sizes, the first was taken: {told}"]
    return next(iter(known.values()), None), []


def _contradicts(one: Listed) -> bool:
    name = parse_name(one.file)
    if name is None:
        return False
    said = (name.row, name.column, name.field, name.channel)
    return said != (one.row, one.column, one.field, one.channel) or (one.kind == "stack" and name.z != one.z)
