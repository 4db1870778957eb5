"""OME-Zarr plates of versions 0.1 to 0.5, as microscopes' converters and this program's ``--save`` write them.

A plate's group names its wells, a well's its fields, a field's its axes, scale and channels; its first level is the
image. Chunks are files: those that are there are registered one by one, so that one that changes is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, parse_well, well_name
from openhcs_jupyter.repository.embedded.formats.base import (
    FieldPlace,
    FoundField,
    FoundFile,
    FoundPlane,
    FoundPlate,
    PlaneData,
    Progress,
    Reader,
)
from openhcs_jupyter.repository.embedded.formats.folders import the_only
from openhcs_jupyter.repository.embedded.formats.indexed import LARGEST_PLATE
from openhcs_jupyter.repository.embedded.formats.metadata import (
    channel_marks,
    joined_channels,
    micrometres,
    seconds,
    told_apart,
)
from openhcs_jupyter.repository.embedded.formats.zarr_arrays import (
    FILES,
    ZarrArray,
    ZarrFaultError,
    is_whole,
    read_array,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ATTRIBUTES = (".zattrs", "zarr.json")
_DEPTH = 3
_AXES = ("t", "c", "z", "y", "x")
_THREADS = 8
_MOST_PLANES = 1_000_000


class OmeZarr(Reader):
    """Reads OME-Zarr plates."""

    name = "OME-Zarr"
    looks_for = "a Zarr group of a plate: .zattrs or zarr.json with plate metadata (OME-Zarr 0.1 to 0.5)"

    def recognise(self, folder: Path) -> float:
        """Tell how sure the reader is: 1 with a group of a plate."""
        return 1.0 if _plates(folder) else 0.0

    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in or below `folder`."""
        root = the_only(folder, _plates(folder), self.looks_for)
        plate = _attributes(root)["plate"]
        try:
            places, problems = _fields(root, plate)
            rows, columns = len(plate.get("rows") or ()) or None, len(plate.get("columns") or ()) or None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RepositoryError(f"The plate {root} has damaged metadata: {error!r}.", "Copy it again.") from error
        images = _read_images(root, places, progress)
        found = [image for image in images if isinstance(image, _Image)]
        if not found:
            raise RepositoryError(f"None of the {len(images)} images of {root} can be read: {images[0]}")
        channels, lines = joined_channels(image.channels for image in found)
        problems += lines
        planes: list[FoundPlane] = []
        for place, image in zip(places, images, strict=True):
            if isinstance(image, _Image):
                planes += _planes(root, place, image, channels)
            else:
                problems.append(f"{image} ({well_name(*place.at[:2])} field {place.at[2]})")
        return FoundPlate(
            name=str(plate.get("name") or "") or root.name.removesuffix(".zarr").removesuffix(".ome"),
            format=self.name,
            root=root,
            channels=tuple(channels.values()),
            planes=planes,
            fields={
                place.at: image.facts for place, image in zip(places, images, strict=True) if isinstance(image, _Image)
            },
            rows=rows,
            columns=columns,
            problems=tuple(problems),
        )

    def decode(self, files: Sequence[Path | BinaryIO], data: PlaneData) -> NDArray[np.generic]:
        """Read one plane: `files` are the array's description, then the plane's chunks."""
        paths = [file for file in files if isinstance(file, Path)]
        if len(paths) < len(files):
            raise RepositoryError("OME-Zarr is read by the paths of its chunks only.")
        description, *chunks = paths
        return read_array(description.parent, description.name).read(data.page, chunks)


class _Place(NamedTuple):
    """A field as the plate and its well name it."""

    at: FieldPlace
    path: str
    """Of its group, below the plate's."""


class _Image(msgspec.Struct, frozen=True, kw_only=True):
    """One field's image."""

    path: str
    """Of its array, below the plate's group."""
    description: FoundFile
    array: ZarrArray
    axes: tuple[str, ...]
    channels: tuple[Channel, ...]
    facts: FoundField
    files: Mapping[str, FoundFile]
    """Those of its chunks that are there, by their path below the array."""


def _attributes(group: Path) -> dict[str, Any]:
    """Read what OME-Zarr says of a group; nothing where it is no such group.

    Raises
    ------
    RepositoryError
        If its file is damaged.
    """
    for name in _ATTRIBUTES:
        path = group / name
        try:
            told = msgspec.json.decode(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except msgspec.DecodeError as error:
            raise RepositoryError(f"{path} is damaged: {error}.", "Copy it again.") from error
        if name == "zarr.json":
            told = told.get("attributes", {}).get("ome", {}) if isinstance(told, dict) else {}
        return told if isinstance(told, dict) else {}
    return {}


def _plates(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """List the plates in and below a folder; a group is looked into no further."""
    if any((folder / name).exists() for name in (".zgroup", *_ATTRIBUTES)):
        return [folder] if isinstance(_attributes(folder).get("plate"), dict) else []
    if not depth:
        return []
    try:
        below = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except PermissionError:
        return []
    return [plate for child in below for plate in _plates(child, depth - 1)]


def _fields(root: Path, plate: Mapping[str, Any]) -> tuple[list[_Place], list[str]]:
    """List the fields that the plate and its wells name."""
    places: dict[FieldPlace, _Place] = {}
    problems: list[str] = []
    acquisitions: set[object] = set()
    for entry in plate.get("wells") or ():
        path = str(entry.get("path", ""))
        where = _well(plate, entry, path)
        if where is None or not _is_inside(path):
            problems.append(f"{root} names a well {path!r} that is no place on a plate; it was left out")
            continue
        images = _attributes(root / path).get("well", {}).get("images") or ()
        if not images:
            problems.append(f"{well_name(*where)} was left out: {root / path} names no images")
        numbers = [_number(str(image.get("path", "")), position) for position, image in enumerate(images, 1)]
        if len(set(numbers)) < len(numbers):
            numbers = list(range(1, len(images) + 1))
        for number, image in zip(numbers, images, strict=True):
            if not _is_inside(str(image.get("path", ""))):
                problems.append(f"{root / path} names an image outside it, which was left out")
                continue
            acquisitions.add(image.get("acquisition"))
            places[(*where, number)] = _Place((*where, number), f"{path}/{image.get('path', '')}")
    if not places:
        raise RepositoryError(f"{root} names no wells with images.")
    if len(acquisitions) > 1:
        problems.append(f"the plate has {len(acquisitions)} acquisitions; the images of each are fields of their own")
    return [place for _, place in sorted(places.items())], problems


def _is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def _well(plate: Mapping[str, Any], entry: Mapping[str, Any], path: str) -> tuple[int, int] | None:
    """Find a well's place: by the names of its row and column, else by its path, else by its indices.

    The indices count in the lists of rows and columns, in which some programs name those alone that have wells.
    """
    row, column = entry.get("rowIndex"), entry.get("columnIndex")
    named = ""
    if isinstance(row, int) and isinstance(column, int) and row >= 0 and column >= 0:
        rows, columns = plate.get("rows") or (), plate.get("columns") or ()
        if row < len(rows) and column < len(columns):
            named = f"{rows[row].get('name', '')}{columns[column].get('name', '')}"
    for name in (named, "".join(path.split("/")[-2:])):
        try:
            row, column = parse_well(name)
            break
        except ValueError:
            continue
    if not isinstance(row, int) or not isinstance(column, int):
        return None
    return (row, column) if 0 <= row < LARGEST_PLATE[0] and 0 <= column < LARGEST_PLATE[1] else None


def _number(path: str, position: int) -> int:
    """Give a field a number: by its path, which most programs count from 0, or by its position."""
    return int(path) + 1 if path.isdecimal() and len(path) < 6 else position


def _read_images(root: Path, places: Sequence[_Place], progress: Progress | None) -> list[_Image | str]:
    """Read all images, in threads because folders are often far away; a sentence where one cannot be used."""
    images: list[_Image | str] = []
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="images")
    try:
        for image in pool.map(lambda place: _try_image(root, place.path), places):
            images.append(image)
            if progress is not None:
                progress(len(images), len(places))
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _try_image(root: Path, path: str) -> _Image | str:
    try:
        return _image(root, path)
    except ZarrFaultError as fault:
        return f"{root / path} {fault}"
    except OSError as error:
        return f"{root / path} cannot be read: {error.strerror or error}"
    except RepositoryError as error:
        return error.message
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"{root / path} has damaged metadata: {error!r}"


def _image(root: Path, path: str) -> _Image:
    told = _attributes(root / path)
    if not told.get("multiscales"):
        raise ZarrFaultError("is no image: it has no multiscales metadata")
    multiscale = told["multiscales"][0]
    level = multiscale["datasets"][0]
    array_path = f"{path}/{level['path']}"
    if not _is_inside(str(level["path"])):
        raise ZarrFaultError(f"names an array outside it: {level['path']!r}")
    folder = root / array_path
    name = next((name for name in FILES if (folder / name).is_file()), None)
    if name is None:
        raise ZarrFaultError(f"has no array {level['path']!r}")
    array = read_array(folder, name)
    axes = multiscale.get("axes") or _AXES
    names = tuple(str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes)
    if len(names) != len(array.shape) or names[-2:] != ("y", "x") or not set(names) <= set(_AXES):
        raise ZarrFaultError(f"has the axes {', '.join(names)} and the shape {array.shape}; planes must be (y, x)")
    size_c = array.shape[names.index("c")] if "c" in names else 1
    status = (folder / name).stat()
    return _Image(
        path=array_path,
        description=FoundFile(f"{array_path}/{name}", status.st_size, status.st_mtime_ns),
        array=array,
        axes=names,
        channels=_names(told.get("omero") or {}, size_c, path),
        facts=_facts(array, axes, level, multiscale),
        files=_chunks(folder, array),
    )


def _chunks(folder: Path, array: ZarrArray) -> dict[str, FoundFile]:
    """List the chunks that are there."""
    planes = math.prod(array.shape[:-2])
    if planes > _MOST_PLANES:
        raise ZarrFaultError(f"has {planes:,} planes by its shape {array.shape}, which no microscope records")
    found = {}
    seen: set[str] = set()
    for plane in range(planes):
        for key in array.keys(plane):
            if key in seen:
                continue
            seen.add(key)
            try:
                status = (folder / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            found[key] = FoundFile(key, status.st_size, status.st_mtime_ns)
    if not found:
        raise ZarrFaultError(f"has none of its {len(seen)} chunks: its pixels are not there")
    return found


def _names(omero: Mapping[str, Any], size_c: int, path: str) -> tuple[Channel, ...]:
    told = [one if isinstance(one, dict) else {} for one in omero.get("channels") or ()]
    told += [{}] * (size_c - len(told))
    labels = [str(one.get("label") or "") for one in told[:size_c]]
    names, _ = told_apart(labels, channel_marks(size_c), path)
    colors = [str(one.get("color") or "").lstrip("#").upper() for one in told]
    return tuple(
        Channel(name=name, color=color if len(color) == 6 and set(color) <= set("0123456789ABCDEF") else None)
        for name, color in zip(names, colors, strict=False)
    )


def _facts(
    array: ZarrArray, axes: Sequence[Any], level: Mapping[str, Any], multiscale: Mapping[str, Any]
) -> FoundField:
    """Read pixel size, slice distance, time step and position."""
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    units = {axis["name"]: axis.get("unit") for axis in axes if isinstance(axis, dict)}
    scale, shift = [1.0] * len(names), [0.0] * len(names)
    told = False
    for one in (*(level.get("coordinateTransformations") or ()), *(multiscale.get("coordinateTransformations") or ())):
        if one["type"] == "scale":
            told = True
            scale = [a * float(b) for a, b in zip(scale, one["scale"], strict=True)]
            shift = [a * float(b) for a, b in zip(shift, one["scale"], strict=True)]
        elif one["type"] == "translation":
            shift = [a + float(b) for a, b in zip(shift, one["translation"], strict=True)]
    if not told:
        return FoundField()

    def size(axis: str) -> float | None:
        # Without a unit a scale of 1 says nothing.
        value = scale[names.index(axis)] if axis in names else None
        if value is None or value <= 0 or (units.get(axis) is None and value == 1.0):
            return None
        return seconds(value, units.get(axis)) if axis == "t" else micrometres(value, units.get(axis))

    pixel = size("x")
    position = None
    if pixel is not None and any(shift[-2:]):
        factor = pixel / scale[-1]
        y, x = (
            start * factor + (count - 1) / 2 * pixel for start, count in zip(shift[-2:], array.shape[-2:], strict=True)
        )
        position = (round(y, 6), round(x, 6))
    return FoundField(position_um=position, pixel_size_um=pixel, z_step_um=size("z"), t_step_s=size("t"))


def _planes(root: Path, place: _Place, image: _Image, channels: Mapping[str, Channel]) -> Iterator[FoundPlane]:
    row, column, field = place.at
    array = image.array
    numbers = {name: c for c, name in enumerate(channels)}
    sizes = dict(zip(image.axes, array.shape, strict=True))
    folder = root / image.path
    for t in range(sizes.get("t", 1)):
        for c, channel in enumerate(image.channels):
            for z in range(sizes.get("z", 1)):
                at = {"t": t, "c": c, "z": z}
                plane = array.plane(*(at[axis] for axis in image.axes[:-2]))
                files = [_file(image, key) for key in array.keys(plane)]
                short = next((one for one in files if one.size >= 0 and not _whole(folder, image, one)), None)
                offset = array.place(plane) if files[0].size >= 0 else None
                yield FoundPlane(
                    row=row,
                    column=column,
                    field=field,
                    kind="stack",
                    t=t,
                    c=numbers[channel.name],
                    z=z,
                    file=image.description if offset is None else files[0],
                    parts=tuple(files) if offset is None else (image.description,),
                    data=None
                    if short is not None
                    else PlaneData(
                        size_y=array.size_y,
                        size_x=array.size_x,
                        dtype=array.pixels,
                        page=plane,
                        offset=offset,
                        swapped=array.swapped,
                    ),
                    fault=None if short is None else f"{root / short.path} is truncated",
                )


def _file(image: _Image, key: str) -> FoundFile:
    there = image.files.get(key)
    path = f"{image.path}/{key}"
    return FoundFile(path, -1, 0) if there is None else FoundFile(path, there.size, there.mtime_ns)


def _whole(folder: Path, image: _Image, file: FoundFile) -> bool:
    return is_whole(image.array, folder / file.path.removeprefix(f"{image.path}/"), file.size)
