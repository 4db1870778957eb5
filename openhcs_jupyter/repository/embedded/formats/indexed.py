"""Plates whose microscope lists its planes in an index: the list, checked against the files that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import ImageKind, well_name
from openhcs_jupyter.repository.embedded.formats.base import (
    FieldPlace,
    FoundField,
    FoundFile,
    FoundPlane,
    Progress,
    WellPlace,
)
from openhcs_jupyter.repository.embedded.formats.folders import is_tiff, some
from openhcs_jupyter.repository.embedded.formats.headers import read_headers
from openhcs_jupyter.repository.embedded.formats.metadata import fields_of, ranks, t_step, z_step
from openhcs_jupyter.repository.embedded.formats.tiff import TiffHeader

LARGEST_PLATE = (32, 48)
"""Rows and columns of a plate of 1536 wells."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One plane as an index lists it; numbers of channel, t and z as the microscope counts them."""

    row: int
    column: int
    """Of the well, from 0."""
    field: int
    """From 1."""
    kind: ImageKind = "stack"
    channel: int
    t: int
    z: int
    file: str
    """Its name, without folders."""
    position: tuple[float, float] | None = None
    """Of the stage, ``(y, x)`` in micrometres, y growing downwards."""
    height: float | None = None
    """Of the slice, in micrometres."""
    acquired: datetime | None = None
    """When it was recorded."""

    @property
    def place(self) -> FieldPlace:
        """Its field."""
        return self.row, self.column, self.field

    @property
    def plane(self) -> tuple[object, ...]:
        """What no two files may share."""
        return self.place, self.kind, self.channel, self.t, self.z


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What an index says of a plate's planes."""

    root: Path
    name: str
    """Of the index file."""
    listed: Sequence[Listed]
    sizes: Mapping[int, tuple[int, int]] = {}
    """Rows and columns of the images of each channel, where it tells."""


class IndexedPlanes(msgspec.Struct, frozen=True, kw_only=True):
    """The planes of an index with their files."""

    channels: tuple[int, ...]
    """Numbers of the channels that there are, in order."""
    planes: list[FoundPlane]
    fields: dict[FieldPlace, FoundField]
    z_step_um: float | None
    t_step_s: float | None
    problems: list[str]


def find_planes(
    index: Index,
    files: Mapping[str, FoundFile],
    *,
    contradicts: Callable[[Listed], bool],
    is_other: Callable[[str], bool],
    progress: Progress | None = None,
) -> IndexedPlanes:
    """Find the files of an index's planes and read their headers.

    Parameters
    ----------
    index
        What the index says.
    files
        Those that are there, by name.
    contradicts
        Tells whether a file's name says something else than the index.
    is_other
        Tells by its name that a TIFF file is no image of the plate and needs no word.
    progress
        Called with how many headers are read and how many there are.

    Raises
    ------
    RepositoryError
        If no plane is listed, or none of the files is there.
    """
    if not index.listed:
        raise RepositoryError(f"{index.root / index.name} lists no images.")
    folded = {name.lower(): file for name, file in files.items()}
    chosen, problems = _without_repeats(index)
    chosen, lines = _without_lost_wells(index, chosen, folded)
    problems += lines
    problems += _unlisted(index, files, is_other)
    problems += _contradictions(index, [one for one in chosen if contradicts(one)])
    there = [one for one in chosen if one.file.lower() in folded]
    paths = [(str(index.root / folded[one.file.lower()].path), folded[one.file.lower()].size) for one in there]
    headers = dict(zip(there, read_headers(paths, progress), strict=True))
    problems += _wrong_sizes(index, headers)
    channels = sorted({one.channel for one in chosen})
    c_of = {channel: c for c, channel in enumerate(channels)}
    t_of = ranks(one.t for one in chosen)
    z_of = ranks(one.z for one in chosen if one.kind == "stack")
    planes = []
    stacks: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
    for one in chosen:
        header = headers.get(one)
        z = z_of[one.z] if one.kind == "stack" else 0
        missing = f"{index.root / one.file} is not there, {index.name} lists it"
        planes.append(
            FoundPlane(
                row=one.row,
                column=one.column,
                field=one.field,
                kind=one.kind,
                t=t_of[one.t],
                c=c_of[one.channel],
                z=z,
                file=folded.get(one.file.lower()) or FoundFile(one.file, 0, 0),
                data=header.data if isinstance(header, TiffHeader) else None,
                fault=None if isinstance(header, TiffHeader) else header or missing,
            )
        )
        if one.height is not None and one.kind == "stack":
            stacks[one.place, one.channel, one.t][z] = one.height
    return IndexedPlanes(
        channels=tuple(channels),
        planes=planes,
        fields=fields_of((one.place, one.position, one.acquired) for one in chosen),
        z_step_um=z_step(stacks.values()),
        t_step_s=t_step(((one.place, one.channel, one.z), t_of[one.t], one.acquired) for one in chosen),
        problems=problems,
    )


def _without_repeats(index: Index) -> tuple[list[Listed], list[str]]:
    """Keep the first of the files that are listed for one plane."""
    chosen: dict[tuple[object, ...], Listed] = {}
    left = []
    for one in index.listed:
        first = chosen.setdefault(one.plane, one)
        if first.file.lower() != one.file.lower():
            left.append(one.file)
    if not left:
        return list(chosen.values()), []
    return list(chosen.values()), [
        f"{len(left)} file(s) were left out, {index.name} lists others for the same planes: {some(left)}"
    ]


def _without_lost_wells(
    index: Index, listed: Sequence[Listed], files: Mapping[str, FoundFile]
) -> tuple[list[Listed], list[str]]:
    """Leave out wells without a single file, with one line each."""
    wells: dict[WellPlace, list[Listed]] = defaultdict(list)
    for one in listed:
        wells[one.row, one.column].append(one)
    lost = {well for well, ones in wells.items() if not any(one.file.lower() in files for one in ones)}
    if len(lost) == len(wells):
        raise RepositoryError(
            f"None of the {len(listed):,} images that {index.name} lists are in {index.root}.",
            f"The first is {listed[0].file}. Copy the images beside {index.name}.",
        )
    problems = [
        f"{well_name(*well)} was left out: none of the {len(wells[well])} images that {index.name} lists are there"
        for well in sorted(lost)
    ]
    return [one for one in listed if (one.row, one.column) not in lost], problems


def _unlisted(index: Index, files: Mapping[str, FoundFile], is_other: Callable[[str], bool]) -> list[str]:
    known = {one.file.lower() for one in index.listed}
    left = [name for name in files if is_tiff(name) and name.lower() not in known and not is_other(name)]
    return [f"{len(left)} TIFF file(s) are not in {index.name} and were left out: {some(left)}"] if left else []


def _contradictions(index: Index, listed: Sequence[Listed]) -> list[str]:
    if not listed:
        return []
    one = min(listed, key=lambda one: one.file)
    return [
        (
            f"{len(listed)} file(s) are named for another plane than {index.name} says, which was followed: "
            f"it has {one.file} for {well_name(one.row, one.column)} field {one.field}, "
            f"channel {one.channel}, z {one.z}"
        )
    ]


def _wrong_sizes(index: Index, headers: Mapping[Listed, TiffHeader | str]) -> list[str]:
    wrong: dict[int, list[tuple[str, tuple[int, int]]]] = defaultdict(list)
    for one, header in headers.items():
        if isinstance(header, TiffHeader):
            size = header.data.size_y, header.data.size_x
            if index.sizes.get(one.channel, size) != size:
                wrong[one.channel].append((one.file, size))
    problems = []
    for channel, files in sorted(wrong.items()):
        says, (name, size) = index.sizes[channel], min(files)
        problems.append(
            f"{len(files)} image(s) of channel {channel} are not of {says[0]} x {says[1]} pixels as the metadata say: "
            f"{name} has {size[0]} x {size[1]}"
        )
    return problems
