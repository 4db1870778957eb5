"""Plates of ImageXpress microscopes, as MetaXpress writes them: names of files, levels of folders, headers.

A plate starts in the folder that holds its images, or its ``TimePoint_N`` and ``ZStep_N`` folders, which may be nested
either way. Names are ``[PLATE_]WELL[_sSITE][_wWAVELENGTH][GUID].tif``; ``_zN`` and ``_tN`` at the end are taken too.
Images outside any ``ZStep_N`` level are projections where the plate has such a level, the stack where it has none.
"""

from __future__ import annotations

import html
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ImageKind, parse_well
from openhcs_jupyter.repository.embedded.formats.base import (
    FieldPlace,
    FoundField,
    FoundFile,
    FoundPlane,
    FoundPlate,
    Progress,
    Reader,
)
from openhcs_jupyter.repository.embedded.formats.folders import ZARR_MARKS
from openhcs_jupyter.repository.embedded.formats.headers import read_headers
from openhcs_jupyter.repository.embedded.formats.metadata import fields_of, moment, ranks, real, t_step, z_step
from openhcs_jupyter.repository.embedded.formats.tiff import TiffHeader

_NAME = re.compile(
    r"^(?:(?P<plate>.+?)_)??(?P<well>[A-Z]{1,2}[0-9]{1,2})(?i:"
    r"(?:_s(?P<site>[0-9]{1,4}))?(?:_w(?P<wave>[0-9]{1,2}))?"
    r"(?P<guid>[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})?"
    r"(?:_z(?P<z>[0-9]{1,5}))?(?:_t(?P<t>[0-9]{1,6}))?\.tiff?)$"
)
_LEVEL = re.compile(r"^(TimePoint|ZStep)_([0-9]{1,6})$", re.IGNORECASE)
_PROPERTY = re.compile(
    r'<prop id="(image-name|wavelength|spatial-calibration-(?:x|units)|stage-position-[xy]|z-position'
    r'|acquisition-time-local)"'
    r'[^>]*? value="([^"]*)"'
)
_HTD_LINE = re.compile(r'^\s*"([^"]+)"\s*,\s*(.*?)\s*$')
_DUPLICATE = re.compile(r"-[0-9]+$")
_UNKNOWN_SHOWN = 3
_LARGEST = (32, 48)  # rows and columns of a plate of 1536 wells


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of an image file says."""

    plate: str | None
    row: int
    column: int
    """Of the well, from 0."""
    site: int
    """From 1; 1 where the name has none."""
    wave: int
    """Number of the wavelength, from 1; 1 where the name has none."""
    z: int | None
    t: int | None
    """As written; None where the name has none."""
    guid: bool


def parse_name(name: str) -> ImageName | None:
    """Read the name of an image file; None where it is not one, as with thumbnails."""
    if "_thumb" in name.lower():
        return None
    match = _NAME.match(name)
    if match is None:
        return None
    try:
        row, column = parse_well(match["well"])
    except ValueError:
        return None
    site, wave = int(match["site"] or 1), int(match["wave"] or 1)
    if site == 0 or wave == 0 or row >= _LARGEST[0] or column >= _LARGEST[1]:
        return None
    return ImageName(
        plate=match["plate"],
        row=row,
        column=column,
        site=site,
        wave=wave,
        z=int(match["z"]) if match["z"] else None,
        t=int(match["t"]) if match["t"] else None,
        guid=match["guid"] is not None,
    )


class ImageXpress(Reader):
    """Reads the folders that MetaXpress writes."""

    name = "ImageXpress"
    looks_for = "TIFF files named like PLATE_A01_s1_w1.tif, in TimePoint_N and ZStep_N folders or in none"

    def recognise(self, folder: Path) -> float:
        """Tell how sure the reader is: 1 with a GUID or a MetaXpress folder level, 0.5 with a fitting name alone."""
        sure = 0.0
        for found in _walk(_start(folder)):
            if found.name.guid or found.levels:
                return 1.0
            sure = 0.5
        return sure

    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in, above or below `folder`."""
        unknown: list[str] = []
        start = _start(folder)
        root, images, problems = _one_plate(start, list(_walk(start, unknown)))
        if unknown:
            shown = ", ".join(sorted(unknown)[:_UNKNOWN_SHOWN]) + (", ..." if len(unknown) > _UNKNOWN_SHOWN else "")
            problems.append(f"{len(unknown)} TIFF file(s) are not named like images and were left out: {shown}")
        images, duplicates = _without_duplicates(images)
        problems += duplicates
        headers = read_headers([(image.path, image.size) for image in images], progress)
        htd = _read_htd(root)
        waves = sorted({image.name.wave for image in images})
        problems += _contradictions(images, htd)
        properties = {
            image.path: _properties(header.description)
            for image, header in zip(images, headers, strict=True)
            if isinstance(header, TiffHeader)
        }
        return FoundPlate(
            name=_plate_name(images, root),
            format=self.name,
            root=root,
            channels=_channels(waves, images, properties, htd),
            planes=list(_planes(root, images, headers, waves)),
            fields=_fields(images, properties),
            pixel_size_um=_pixel_size(properties.values()),
            z_step_um=_z_step(images, properties),
            t_step_s=_t_step(images, properties),
            rows=_number(htd.get("YWells")),
            columns=_number(htd.get("XWells")),
            problems=tuple(problems),
        )


class _Image(msgspec.Struct, frozen=True):
    """An image file that the walk met."""

    path: str
    base: str
    """Folder above all levels."""
    levels: tuple[tuple[str, int], ...]
    """Such as ``("timepoint", 1)``."""
    name: ImageName
    size: int
    mtime_ns: int

    @property
    def t(self) -> int | None:
        return dict(self.levels).get("timepoint", self.name.t)

    @property
    def z(self) -> int | None:
        return dict(self.levels).get("zstep", self.name.z)

    @property
    def place(self) -> FieldPlace:
        return self.name.row, self.name.column, self.name.site


def _start(folder: Path) -> Path:
    """Return the folder above the levels that `folder` itself may be."""
    folder = folder.resolve()
    while _LEVEL.match(folder.name):
        folder = folder.parent
    return folder


def _walk(folder: Path, unknown: list[str] | None = None) -> Iterator[_Image]:
    """Find the image files below `folder`, and gather the names of TIFF files that are no images in `unknown`."""
    waiting: list[tuple[str, str, tuple[tuple[str, int], ...]]] = [(str(folder), str(folder), ())]
    linked: set[str] = set()
    while waiting:
        here, base, levels = waiting.pop()
        with os.scandir(here) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        if any(entry.name in ZARR_MARKS for entry in ordered):
            continue  # thousands of folders of chunks
        for entry in ordered:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if real in linked or folder.is_relative_to(real):
                        continue
                    linked.add(real)
                if level := _LEVEL.match(entry.name):
                    waiting.append((entry.path, base, (*levels, (level[1].lower(), int(level[2])))))
                else:
                    waiting.append((entry.path, entry.path, ()))
            elif name := parse_name(entry.name):
                stat = entry.stat()
                yield _Image(entry.path, base, levels, name, stat.st_size, stat.st_mtime_ns)
            elif unknown is not None and _is_unknown_tiff(entry.name):
                unknown.append(entry.name)


def _is_unknown_tiff(name: str) -> bool:
    lower = name.lower()
    return lower.endswith((".tif", ".tiff")) and "_thumb" not in lower


def _one_plate(folder: Path, images: list[_Image]) -> tuple[Path, list[_Image], list[str]]:
    """Return where the plate starts, its images, and what was left out.

    The folder that was named wins where it holds images itself; otherwise there must be one plate below it.
    """
    bases = Counter(image.base for image in images)
    if not bases:
        raise RepositoryError(f"{folder} has no ImageXpress images.", f"Looked for {ImageXpress.looks_for}.")
    if str(folder) in bases:
        others = [base for base in bases if base != str(folder)]
        left = [f"{bases[base]} image(s) in {base} are not in a MetaXpress folder and were left out" for base in others]
        return folder, [image for image in images if image.base == str(folder)], left
    if len(bases) > 1:
        shown = "".join(f"\n  {base} ({count} images)" for base, count in sorted(bases.items()))
        raise RepositoryError(f"{folder} holds {len(bases)} plates:{shown}", "Import them one at a time.")
    return Path(next(iter(bases))), images, []


def _without_duplicates(images: list[_Image]) -> tuple[list[_Image], list[str]]:
    """Keep the newest of files that claim the same plane."""
    chosen: dict[tuple[object, ...], _Image] = {}
    problems = []
    for image in images:
        key = (image.place, image.name.wave, image.t, image.z)
        other = chosen.get(key)
        if other is not None:
            old, new = sorted((other, image), key=lambda one: (one.mtime_ns, one.path))
            problems.append(f"{old.path} was left out: {Path(new.path).name} is newer and claims the same plane")
            chosen[key] = new
        else:
            chosen[key] = image
    return list(chosen.values()), problems


def _properties(description: str) -> dict[str, str]:
    return {key: html.unescape(value) for key, value in _PROPERTY.findall(description)}


def _planes(
    root: Path, images: Sequence[_Image], headers: Sequence[TiffHeader | str], waves: Sequence[int]
) -> Iterator[FoundPlane]:
    channel = {wave: c for c, wave in enumerate(waves)}
    first_z = min((image.z for image in images if image.z is not None), default=None)
    t_of = ranks(image.t for image in images if image.t is not None)
    skip = len(str(root)) + 1
    for image, header in zip(images, headers, strict=True):
        projection = first_z is not None and image.z is None
        kind: ImageKind = "projection" if projection else "stack"
        fine = isinstance(header, TiffHeader)
        yield FoundPlane(
            row=image.name.row,
            column=image.name.column,
            field=image.name.site,
            kind=kind,
            t=t_of[image.t] if image.t is not None else 0,
            c=channel[image.name.wave],
            z=image.z - first_z if image.z is not None and first_z is not None else 0,
            file=FoundFile(image.path[skip:].replace(os.sep, "/"), image.size, image.mtime_ns),
            data=header.data if isinstance(header, TiffHeader) else None,
            fault=None if fine else str(header),
        )


def _plate_name(images: Sequence[_Image], root: Path) -> str:
    """Name the plate as its files do, or as its folder where they do not or disagree."""
    names = {image.name.plate for image in images}
    return next(iter(names)) or root.name if len(names) == 1 else root.name


def _channels(
    waves: Sequence[int],
    images: Sequence[_Image],
    properties: Mapping[str, Mapping[str, str]],
    htd: Mapping[str, str],
) -> tuple[Channel, ...]:
    """Name the channels by the .HTD file, else by the headers' image-name, else w1, w2, ...

    MetaXpress adds -2, -3, ... where wavelengths share one illumination setting. Such names tell nothing apart, so then
    all channels keep the names that the files have.
    """
    emissions: dict[int, Counter[float]] = defaultdict(Counter)
    labels: dict[int, Counter[str]] = defaultdict(Counter)
    for image in images:
        values = properties.get(image.path, {})
        if (emission := real(values.get("wavelength"))) and emission > 0:
            emissions[image.name.wave][emission] += 1
        if label := values.get("image-name", "").strip():
            labels[image.name.wave][label] += 1
    plain = [f"w{wave}" for wave in waves]
    written = [htd.get(f"WaveName{wave}", "").strip() for wave in waves]
    headed = [labels[wave].most_common(1)[0][0] if len(labels[wave]) == 1 else "" for wave in waves]
    names = next((names for names in (written, headed) if _are_clear(names)), plain)
    return tuple(
        Channel(name=name, emission_nm=emissions[wave].most_common(1)[0][0] if emissions[wave] else None)
        for name, wave in zip(names, waves, strict=True)
    )


def _are_clear(names: Sequence[str]) -> bool:
    """Tell whether these names can stand for the channels: all there, all different by more than a counter."""
    known = set(names)
    counted = any(_DUPLICATE.sub("", name) in known - {name} for name in names)
    return all(names) and len(known) == len(names) and not counted


def _fields(images: Sequence[_Image], properties: Mapping[str, Mapping[str, str]]) -> dict[FieldPlace, FoundField]:
    def told() -> Iterator[tuple[FieldPlace, tuple[float, float] | None, datetime | None]]:
        for image in images:
            values = properties.get(image.path, {})
            y, x = real(values.get("stage-position-y")), real(values.get("stage-position-x"))
            position = (y, x) if y is not None and x is not None else None
            yield image.place, position, moment(values.get("acquisition-time-local"))

    return fields_of(told())


def _contradictions(images: Sequence[_Image], htd: Mapping[str, str]) -> list[str]:
    """Name what the plate's .HTD file promises and the files do not hold, and what they hold beyond it."""
    times, waves = {image.t for image in images}, {image.name.wave for image in images}
    problems = []
    for what, said, there in (
        ("time points", htd.get("TimePoints"), len(times)),
        ("wavelengths", htd.get("NWavelengths"), len(waves)),
    ):
        if (promised := _number(said)) is not None and promised != there:
            problems.append(f"the .HTD file says {promised} {what}, and there are files of {there}")
    return problems


def _pixel_size(properties: Iterable[Mapping[str, str]]) -> float | None:
    sizes = Counter(
        size
        for values in properties
        if values.get("spatial-calibration-units", "um") in ("um", "µm", "microns")
        and (size := real(values.get("spatial-calibration-x"))) is not None
        and size > 0
    )
    return sizes.most_common(1)[0][0] if sizes else None


def _z_step(images: Sequence[_Image], properties: Mapping[str, Mapping[str, str]]) -> float | None:
    stacks: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
    for image in images:
        height = real(properties.get(image.path, {}).get("z-position"))
        if image.z is not None and height is not None:
            stacks[image.place, image.name.wave, image.t][image.z] = height
    return z_step(stacks.values())


def _t_step(images: Sequence[_Image], properties: Mapping[str, Mapping[str, str]]) -> float | None:
    t_of = ranks(image.t for image in images if image.t is not None)
    return t_step(
        (
            (image.place, image.name.wave, image.z),
            t_of[image.t],
            moment(properties.get(image.path, {}).get("acquisition-time-local")),
        )
        for image in images
        if image.t is not None
    )


def _read_htd(root: Path) -> dict[str, str]:
    """Read the plate's .HTD file, where there is one: lines of ``"Key", value``."""
    for path in sorted(root.iterdir()):
        if path.suffix.lower() == ".htd":
            lines = path.read_text(encoding="latin-1").splitlines()
            return {match[1]: match[2].strip('"') for match in map(_HTD_LINE.match, lines) if match}
    return {}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else None
