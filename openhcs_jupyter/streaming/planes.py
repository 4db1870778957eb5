"""Reads planes, tables and contrast limits from a unit's folder in the run store."""

from __future__ import annotations

import io
import math
import os
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.layers import COARSE, LayerKind, RunView, StackReady, TableReady

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.generic]
_KEPT_OPEN = 16
_HEADER = 128
_ROWS, _COLUMNS = 8, 512
_LOW, _HIGH = 0.005, 0.998


class Reader:
    """Reads what announcements tell of; keeps some files mapped. Used by several threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str, str], tuple[Array, set[tuple[int, int]]]] = OrderedDict()
        """Stacks, with the planes whose pages were fetched."""
        self._lock = threading.Lock()

    def plane(self, folder: str, ready: StackReady, t: int, z: int) -> Array:
        """Map a plane ``(Y, X)``, read-only; its pages are in memory.

        Raises
        ------
        StreamError
            If it is not there or cannot be read.
        """
        key = (folder, ready.file, ready.version)
        with self._lock:
            found = self._open.get(key)
        if found is None:
            path = file_in(folder, ready.file)
            try:
                found = open_stack(path), set()
            except (OSError, ValueError) as error:
                raise StreamError(f"{path} cannot be read: {error}") from error
            with self._lock:
                self._open[key] = found
                while len(self._open) > _KEPT_OPEN:
                    self._open.popitem(last=False)
        stack, fetched = found
        if not (0 <= t < stack.shape[0] and 0 <= z < stack.shape[1]):
            raise StreamError(f"{ready.file} has no plane at t {t}, z {z}.")
        plane: Array = stack[t, z]
        if (t, z) not in fetched:
            fetch_pages(plane)
            fetched.add((t, z))
        return plane

    def table(self, folder: str, ready: TableReady) -> pa.Table:
        """Map a table.

        Raises
        ------
        StreamError
            If it cannot be read.
        """
        path = file_in(folder, ready.file)
        try:
            return read_table(path)
        except (OSError, ValueError) as error:
            raise StreamError(f"{path} cannot be read: {error}") from error


def kind_of(view: RunView, layer: int) -> LayerKind:
    """Return a layer's kind.

    Raises
    ------
    StreamError
        If there is no such layer.
    """
    if not 0 <= layer < len(view.layers):
        raise StreamError(f"Run {view.name} has no layer {layer}.")
    return view.layers[layer].kind


def file_in(folder: str, file: str) -> Path:
    """Return the path of a run's file.

    Raises
    ------
    StreamError
        If it would lie outside of the run's folder.
    """
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise StreamError(f"{file!r} is no file of a run.")
    return Path(folder) / path


def open_stack(path: Path) -> Array:
    """Map an array ``(T, Z, Y, X)`` read-only.

    Raises
    ------
    OSError, ValueError
        If the file is gone, or is no such array.
    """
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    if array.ndim != 4:
        raise ValueError(f"{path} holds an array of {array.ndim} dimensions, not 4")
    return array


def read_table(path: Path) -> pa.Table:
    """Read an Arrow file; its columns are maps of it."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def fetch_pages(plane: Array) -> None:
    """Touch every page of a mapped plane, so that whoever reads it next does not wait for the disk."""
    np.add.reduce(plane.reshape(-1).view(np.uint8)[::4096])


def coarse(plane: Array, kind: LayerKind) -> Array:
    """Shrink a plane ``(Y, X)`` by 8, rounding its size up: means of an image, every eighth pixel of labels."""
    import cv2

    if kind == "labels":
        return np.ascontiguousarray(plane[::COARSE, ::COARSE])
    size = (-(-plane.shape[1] // COARSE), -(-plane.shape[0] // COARSE))
    if plane.dtype.name in ("uint8", "uint16", "int16", "float32", "float64"):
        small: Array = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        return small
    means: Array = cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA).astype(plane.dtype)
    return means


class Measured(NamedTuple):
    """What a stack's file holds."""

    shape: tuple[int, int, int, int]
    """``(T, Z, Y, X)``"""
    dtype: str
    low: float
    """Of an image: its 0.5th and 99.8th percentile. Of labels: 0 and about the highest label."""
    high: float


def measure(path: Path, kind: LayerKind, limits: tuple[float, float] | None = None) -> Measured:
    """Measure a stack by its header and some rows of its middle plane; the two limits differ.

    It is done for every stack of a run, on the core that computes: a tenth of a millisecond is much.

    Parameters
    ----------
    path
        A ``.npy`` file.
    kind
        Of its layer.
    limits
        Taken rather than those of its pixels, which are not read then.

    Raises
    ------
    OSError, ValueError
        If the file is gone, or holds no array ``(T, Z, Y, X)``.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        shape, dtype, name, start = _header(os.read(file, _HEADER))
        size = dtype.itemsize
        if os.fstat(file).st_size < start + math.prod(shape) * size:
            raise ValueError(f"{path} is too short")
        if limits is not None:
            return Measured(shape, name, *limits)
        _, depth, height, width = shape
        start += depth // 2 * height * width * size
        rows = [
            os.pread(file, width * size, start + row * width * size)
            for row in range(height // (2 * _ROWS), height, max(1, height // _ROWS))
        ]
    finally:
        os.close(file)
    step = max(1, width // _COLUMNS)
    low, high = _limits(np.concatenate([np.frombuffer(row, dtype)[::step] for row in rows or [b""]]), kind)
    return Measured(shape, name, low, high)


@lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[tuple[int, int, int, int], np.dtype[np.generic], str, int]:
    """Read shape, dtype, the dtype's name and the header's size of a ``.npy`` file; fields of a layer have the same."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"a header of version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 4 or fortran or dtype.hasobject:
        raise ValueError(f"an array of shape {shape}, of {dtype}")
    return shape, dtype, dtype.name, file.tell()


def _limits(values: Array, kind: LayerKind) -> tuple[float, float]:
    if kind == "labels":
        return 0.0, float(max(1, values.max(initial=0)))
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    order = [int(_LOW * (values.size - 1)), int(_HIGH * (values.size - 1))]
    values = np.partition(values, order)
    low, high = float(values[order[0]]), float(values[order[1]])
    return (low, high) if high > low else (low, low + 1.0)
