"""Plates of Opera Phenix and Operetta microscopes, as Harmony exports them: an index in XML, one TIFF file a plane.

The index, ``Index.idx.xml`` or ``Index.xml``, lies beside the images, mostly in a folder ``Images``, or above it.
Harmony 4 and 5 describe the channel in each image's entry, Harmony 6 and later in ``Maps``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import msgspec

from openhcs_jupyter.model import Channel, well_name
from openhcs_jupyter.repository.embedded.formats.base import FoundPlate, Progress, Reader
from openhcs_jupyter.repository.embedded.formats.folders import files_in, holders, names_in, some, the_only
from openhcs_jupyter.repository.embedded.formats.indexed import LARGEST_PLATE, Index, Listed, find_planes
from openhcs_jupyter.repository.embedded.formats.metadata import moment, positive, real, told_apart, whole
from openhcs_jupyter.repository.embedded.formats.xml_files import elements, local

_INDICES = ("index.idx.xml", "index.xml")
_IMAGES = "Images"
_NAME = re.compile(
    r"^r(?P<row>[0-9]{1,3})c(?P<column>[0-9]{1,3})f(?P<field>[0-9]{1,5})p(?P<plane>[0-9]{1,5})"
    r"-ch(?P<channel>[0-9]{1,4})sk(?P<time>[0-9]{1,6})fk(?P<fk>[0-9]{1,4})fl(?P<fl>[0-9]{1,4})\.tiff?$",
    re.IGNORECASE,
)
_MICROMETRES = {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0}
_DESCRIBING = (
    "ChannelName",
    "ImageResolutionX",
    "ImageSizeX",
    "ImageSizeY",
    "MainEmissionWavelength",
    "MainExcitationWavelength",
)


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of an image file says; all numbers as written, from 1."""

    row: int
    column: int
    field: int
    plane: int
    channel: int
    time: int


def parse_name(name: str) -> ImageName | None:
    """Read the name of an image file; None where it is not one."""
    match = _NAME.match(name)
    if match is None:
        return None
    return ImageName(
        row=int(match["row"]),
        column=int(match["column"]),
        field=int(match["field"]),
        plane=int(match["plane"]),
        channel=int(match["channel"]),
        time=int(match["time"]),
    )


class Opera(Reader):
    """Reads the folders that Harmony exports."""

    name = "Opera"
    looks_for = "Index.idx.xml, or Index.xml with images like r01c01f01p01-ch1sk1fk1fl1.tiff (Opera Phenix, Operetta)"

    def recognise(self, folder: Path) -> float:
        """Tell how sure the reader is: 1 where there is an index of Harmony."""
        return 1.0 if holders(folder, _has_index) or _above_images(folder) else 0.0

    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in or below `folder`."""
        root = folder if _above_images(folder) else the_only(folder, holders(folder, _has_index), self.looks_for)
        files = files_in(root)
        index = min((name for name in files if name.lower() in _INDICES), key=lambda name: _INDICES.index(name.lower()))
        files = {**files_in(root, _IMAGES), **files}
        found = _read_index(root / index)
        planes = find_planes(
            Index(root=root, name=index, listed=found.listed, sizes=_sizes(found.channels)),
            files,
            contradicts=_contradicts,
            is_other=lambda name: parse_name(name) is None,
            progress=progress,
        )
        channels, problems = _channels(planes.channels, found.channels, index)
        pixel_size, more = _pixel_size(planes.channels, found.channels, index)
        plate = found.plate
        return FoundPlate(
            name=plate.get("Name") or plate.get("PlateID") or _folder_name(root),
            format=self.name,
            root=root,
            channels=channels,
            planes=planes.planes,
            fields=planes.fields,
            pixel_size_um=pixel_size,
            z_step_um=planes.z_step_um,
            t_step_s=planes.t_step_s,
            rows=whole(plate.get("PlateRows")),
            columns=whole(plate.get("PlateColumns")),
            problems=(*found.problems, *problems, *more, *planes.problems),
        )


class _Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What an index says."""

    plate: dict[str, str]
    listed: list[Listed]
    channels: dict[int, dict[str, str]]
    """Of each channel: what describes it, sizes of pixels in micrometres."""
    problems: list[str]


def _has_index(names: Collection[str]) -> bool:
    folded = {name.lower() for name in names}
    if _INDICES[0] in folded:
        return True
    return _INDICES[1] in folded and any(parse_name(name) for name in names)


def _above_images(folder: Path) -> bool:
    """Tell whether the index lies in `folder` and the images in a folder below."""
    names = {name.lower() for name in names_in(folder)}
    return bool(names.intersection(_INDICES)) and any(parse_name(name) for name in names_in(folder / _IMAGES))


def _folder_name(root: Path) -> str:
    return root.parent.name if root.name == _IMAGES else root.name


def _read_index(path: Path) -> _Contents:
    plate: dict[str, str] = {}
    listed: list[Listed] = []
    in_maps: dict[int, dict[str, str]] = defaultdict(dict)
    in_images: dict[int, dict[str, str]] = defaultdict(dict)
    differing: set[str] = set()
    broken = 0
    lost: list[str] = []
    for element in elements(path, "Image", "Entry", "Plate"):
        if not len(element):
            continue
        children = {local(child.tag): child for child in element}
        kind = local(element.tag)
        if kind == "Plate":
            plate = plate or {tag: (child.text or "").strip() for tag, child in children.items()}
        elif kind == "Entry":
            if (channel := whole(element.get("ChannelID"))) is not None:
                in_maps[channel] |= _description(children)
        else:
            one = _listed(children)
            if one is None:
                broken += 1
                continue
            if not one.file:
                lost.append(f"{well_name(one.row, one.column)} field {one.field}")
                continue
            listed.append(one)
            for key, value in _description(children).items():
                if in_images[one.channel].setdefault(key, value) != value and key == "ChannelName":
                    differing.add(f"{in_images[one.channel][key]!r} and {value!r}")
    problems = []
    if broken:
        problems.append(f"{broken} image(s) in {path.name} have no place on the plate and were left out")
    if lost:
        problems.append(f"{path.name} has {len(lost)} image(s) that were not recorded, at {some(set(lost))}")
    if differing:
        problems.append(f"{path.name} has one channel under several names, the first was taken: {some(differing)}")
    channels = {channel: {**in_maps[channel], **in_images[channel]} for channel in {*in_maps, *in_images}}
    return _Contents(plate=plate, listed=listed, channels=channels, problems=problems)


def _listed(children: Mapping[str, Element]) -> Listed | None:
    numbers = [_whole(children, key) for key in ("Row", "Col", "FieldID", "ChannelID")]
    row, column, field, channel = numbers
    if row is None or column is None or field is None or channel is None:
        return None
    if not (1 <= row <= LARGEST_PLATE[0] and 1 <= column <= LARGEST_PLATE[1] and field >= 1):
        return None
    plane, time = _whole(children, "PlaneID"), _whole(children, "TimepointID")
    y, x = _micrometres(children.get("PositionY")), _micrometres(children.get("PositionX"))
    return Listed(
        row=row - 1,
        column=column - 1,
        field=field,
        channel=channel,
        t=time if time is not None else 0,
        z=plane if plane is not None else 1,
        file=_text(children.get("URL")).replace("\\", "/").rpartition("/")[2],
        # The stage's y grows upwards. 0 - y, because -0.0 is not nice to see.
        position=None if y is None or x is None else (0 - y, x),
        height=_micrometres(children.get("PositionZ")),
        acquired=moment(_text(children.get("AbsTime"))),
    )


def _description(children: Mapping[str, Element]) -> dict[str, str]:
    """Gather what describes the channel; sizes of pixels are made micrometres."""
    values = {key: _text(children[key]) for key in _DESCRIBING if key in children}
    if "ImageResolutionX" in values:
        values["ImageResolutionX"] = str(_micrometres(children["ImageResolutionX"]))
    return values


def _text(element: Element | None) -> str:
    return (element.text or "").strip() if element is not None else ""


def _whole(children: Mapping[str, Element], key: str) -> int | None:
    return whole(_text(children.get(key)))


def _micrometres(element: Element | None) -> float | None:
    value = real(_text(element))
    if value is None or element is None:
        return None
    factor = _MICROMETRES.get(element.get("Unit", "m"))
    return round(value * factor, 6) if factor is not None else None


def _sizes(channels: Mapping[int, Mapping[str, str]]) -> dict[int, tuple[int, int]]:
    sizes = {}
    for channel, values in channels.items():
        y, x = whole(values.get("ImageSizeY")), whole(values.get("ImageSizeX"))
        if y and x:
            sizes[channel] = (y, x)
    return sizes


def _channels(
    numbers: Sequence[int], described: Mapping[int, Mapping[str, str]], source: str
) -> tuple[tuple[Channel, ...], list[str]]:
    values = [described.get(number, {}) for number in numbers]
    marks = [f"ch{number}" for number in numbers]
    names, problems = told_apart([one.get("ChannelName", "") for one in values], marks, source)
    return tuple(
        Channel(
            name=name,
            emission_nm=positive(one.get("MainEmissionWavelength")),
            excitation_nm=positive(one.get("MainExcitationWavelength")),
        )
        for name, one in zip(names, values, strict=True)
    ), problems


def _pixel_size(
    numbers: Sequence[int], described: Mapping[int, Mapping[str, str]], source: str
) -> tuple[float | None, list[str]]:
    known = {number: positive(described.get(number, {}).get("ImageResolutionX")) for number in numbers}
    sizes = {number: size for number, size in known.items() if size}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} um in channel {number}" for number, size in sizes.items())
        return next(iter(sizes.values())), [f"{source} has several pixel sizes, the first was taken: {told}"]
    return next(iter(sizes.values()), None), []


def _contradicts(one: Listed) -> bool:
    name = parse_name(one.file)
    said = name and (name.row - 1, name.column - 1, name.field, name.channel, name.plane)
    return said is not None and said != (one.row, one.column, one.field, one.channel, one.z)
