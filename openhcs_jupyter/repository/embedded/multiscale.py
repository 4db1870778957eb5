"""Writes one image or label image as a multiscale Zarr v2 array, plane by plane.

Chunks are compressed with imagecodecs' Blosc and written as plain files, and metadata are plain JSON. zarr-python
reads what stands here but does not write it: a group or an array costs it some 4 ms, its import half a second in
every worker process.
"""

# Paths are text where files and folders are made by the thousand: a Path costs as much as the call.
# ruff: noqa: PTH102, PTH123

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import lazy_loader
import msgspec
import numpy as np

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded.ngff import GROUP, Window, pyramid_shapes

if TYPE_CHECKING:
    import cv2
    import imagecodecs
    from numpy.typing import NDArray
else:
    cv2 = lazy_loader.load("cv2")
    imagecodecs = lazy_loader.load("imagecodecs")

_CHUNK = 4096
_SAMPLE = 16384
_ROBUST = (0.001, 0.999)
_CLEVEL = 1
_BYTE_SHUFFLE, _BIT_SHUFFLE = 1, 2
# Pixel types that OpenCV averages; others go through NumPy.
_AREA_TYPES = frozenset({"uint8", "uint16", "int16", "float32", "float64"})


class _Level(NamedTuple):
    folder: str
    shape: tuple[int, int]
    chunk: tuple[int, int]


def stored_dtype(array: NDArray[np.generic], labels: bool, what: str = "An array") -> np.dtype[Any]:
    """Return the pixel type in which an array is stored.

    Booleans become uint8 and half floats float32; 64-bit labels become int32 where they fit.
    `what` names the array in errors.

    Raises
    ------
    RepositoryError
        If the pixels are not numbers that OME-Zarr knows, or if labels are not integers.
    """
    dtype = array.dtype
    if dtype.kind == "b":
        return np.dtype("u1")
    if labels and dtype.kind not in "iu":
        raise RepositoryError(
            f"{what} has pixels of type {dtype}, which labels cannot have.",
            "Return integers, 0 for the background: labels.astype('int32').",
        )
    if labels and dtype.itemsize == 8 and (array.size == 0 or int(array.max()) < 2**31):
        return np.dtype("<i4")
    if dtype.kind == "f" and dtype.itemsize == 2:
        return np.dtype("<f4")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise RepositoryError(
            f"{what} has pixels of type {dtype}, which cannot be saved.",
            "Return integers or floating-point numbers, such as float32.",
        )
    return dtype.newbyteorder("<")


def halve(plane: NDArray[np.generic], shape: tuple[int, int], labels: bool) -> NDArray[np.generic]:
    """Return the next coarser level of a plane.

    Parameters
    ----------
    plane
        ``(Y, X)``; an odd last row or column is left out.
    shape
        Half of `plane`'s, rounded down; at least 1.
    labels
        Take the upper left of four pixels; else their mean, rounded half up in integers.
    """
    height, width = shape
    step = tuple(2 if whole > 1 else 1 for whole in plane.shape)
    even = plane[: height * step[0], : width * step[1]]
    if labels:
        return np.ascontiguousarray(even[:: step[0], :: step[1]])
    if plane.dtype.name in _AREA_TYPES:
        small: NDArray[np.generic] = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
        return small.reshape(shape)
    blocks = even.reshape(height, step[0], width, step[1])
    if plane.dtype.kind == "f":
        mean: NDArray[np.generic] = blocks.mean(axis=(1, 3)).astype(plane.dtype)
        return mean
    count = step[0] * step[1]
    # Adding the four remainders apart keeps 64-bit sums from running over.
    whole_part = (blocks // count).sum(axis=(1, 3), dtype=plane.dtype)
    rest = (blocks % count).sum(axis=(1, 3), dtype=np.uint8)
    rounded: NDArray[np.generic] = whole_part + ((rest + count // 2) // count).astype(plane.dtype)
    return rounded


def write_multiscale(folder: Path, array: NDArray[np.generic], labels: bool) -> list[Window]:
    """Write an array and its pyramid into a new group; its attributes are not written.

    Parameters
    ----------
    folder
        The group's folder, which must not be there.
    array
        ``(T, C, Z, Y, X)``.
    labels
        The array holds labels.

    Returns
    -------
    list of Window
        One a channel, from a sample of the coarsest level; none for labels.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    dtype = stored_dtype(array, labels)
    shuffle = _BYTE_SHUFFLE if labels else _BIT_SHUFFLE
    levels = _make_levels(folder, array.shape, dtype, shuffle)
    size_t, size_c, size_z = array.shape[:3]
    stride = max(1, math.isqrt(math.prod(levels[-1].shape) * size_t * size_z // _SAMPLE))
    samples: list[list[NDArray[np.generic]]] = [[] for _ in range(size_c)]
    for t, c, z in np.ndindex(size_t, size_c, size_z):
        plane = np.ascontiguousarray(array[t, c, z], dtype=dtype)
        for number, level in enumerate(levels):
            if number:
                plane = halve(plane, level.shape, labels)
            _write_plane(level, f"{t}/{c}/{z}", plane, shuffle)
        if not labels:
            samples[c].append(plane[::stride, ::stride].ravel())
    return [] if labels else [_window(np.concatenate(sample), dtype) for sample in samples]


def write_json(path: Path | str, value: object) -> None:
    """Write a value as JSON."""
    write_bytes(path, msgspec.json.encode(value))


def write_bytes(path: Path | str, content: bytes | bytearray) -> None:
    """Write a whole file."""
    with open(path, "wb") as file:
        file.write(content)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return


def _make_levels(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], shuffle: int) -> list[_Level]:
    folder.mkdir(parents=True)
    write_bytes(folder / ".zgroup", GROUP)
    levels = []
    for number, plane in enumerate(pyramid_shapes(shape[3], shape[4])):
        level = _Level(f"{folder}/{number}", plane, (min(plane[0], _CHUNK), min(plane[1], _CHUNK)))
        os.mkdir(level.folder)
        write_json(
            f"{level.folder}/.zarray",
            {
                "zarr_format": 2,
                "shape": [*shape[:3], *plane],
                "chunks": [1, 1, 1, *level.chunk],
                "dtype": dtype.str,
                "compressor": {"id": "blosc", "cname": "lz4", "clevel": _CLEVEL, "shuffle": shuffle, "blocksize": 0},
                "fill_value": 0,
                "order": "C",
                "filters": None,
                "dimension_separator": "/",
            },
        )
        for t in range(shape[0]):
            os.mkdir(f"{level.folder}/{t}")
            for c in range(shape[1]):
                os.mkdir(f"{level.folder}/{t}/{c}")
        levels.append(level)
    return levels


def _write_plane(level: _Level, key: str, plane: NDArray[np.generic], shuffle: int) -> None:
    folder = f"{level.folder}/{key}"
    os.mkdir(folder)
    for row, column, chunk in _chunks(plane, level.chunk):
        if column == 0:
            os.mkdir(f"{folder}/{row}")
        content = imagecodecs.blosc_encode(
            cast("Any", chunk), level=_CLEVEL, compressor="lz4", shuffle=shuffle, typesize=chunk.itemsize, numthreads=1
        )
        write_bytes(f"{folder}/{row}/{column}", content)


def _chunks(plane: NDArray[np.generic], chunk: tuple[int, int]) -> Iterator[tuple[int, int, NDArray[np.generic]]]:
    if plane.shape == chunk:
        yield 0, 0, plane
        return
    for row in range(-(-plane.shape[0] // chunk[0])):
        for column in range(-(-plane.shape[1] // chunk[1])):
            part = plane[row * chunk[0] : (row + 1) * chunk[0], column * chunk[1] : (column + 1) * chunk[1]]
            # Zarr's chunks are all of one size: those at the edges are filled up.
            whole = np.zeros(chunk, dtype=plane.dtype)
            whole[: part.shape[0], : part.shape[1]] = part
            yield row, column, whole


def _window(pixels: NDArray[np.generic], dtype: np.dtype[Any]) -> Window:
    if dtype.kind == "f":
        pixels = pixels[np.isfinite(pixels)]
    if pixels.size == 0:
        return Window(0.0, 1.0, 0.0, 1.0)
    low, high = (round(part * (pixels.size - 1)) for part in _ROBUST)
    ordered = np.partition(pixels, (0, low, high, pixels.size - 1))
    start, end = float(ordered[low]), float(ordered[high])
    least, most = float(ordered[0]), float(ordered[-1])
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        least, most = float(limits.min), float(limits.max)
    if end <= start:
        # A constant image still needs a window that viewers accept.
        end = start + 1.0
    return Window(start, end, least, max(most, end))
