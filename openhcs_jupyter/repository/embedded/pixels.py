"""Reading planes from files: maps of uncompressed ones, copies of what the format's reader decodes of the others."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository.base import PixelSource
from openhcs_jupyter.repository.embedded.formats.base import FoundFile

_LOOKERS = 8
_ALONE_S = 0.005
"""So long one thread looks at files; on a local disk that is all of a small plate."""
_AGAIN = "Import the plate's folder again."
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
)
_libc.munmap.restype = ctypes.c_int
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class PlaneSpot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where one plane of an image lies."""

    t: int
    c: int
    z: int
    file: int
    """Index in `PlaneTable.files`."""
    page: int
    offset: int
    """Of the plane's first byte; -1 where it must be decoded."""
    swapped: bool
    """Stored in the byte order that is not the machine's."""
    parts: tuple[int, ...] = ()
    """Indices in `PlaneTable.files` of the further files that it hangs on."""


class PlaneTable(msgspec.Struct, frozen=True, array_like=True):
    """Where the planes of an image lie: what the catalogue keeps of each image, packed."""

    files: tuple[FoundFile, ...]
    spots: tuple[PlaneSpot, ...]


def changed_files(tables: Iterable[tuple[str, PlaneTable]]) -> list[str]:
    """Say which files are gone or not as they were, one line a file.

    Parameters
    ----------
    tables
        Of images, each with its plate's folder.
    """

    def look(file: tuple[str, FoundFile]) -> str | None:
        try:
            _check_path(*file)
        except RepositoryError as error:
            return error.message
        return None

    waiting = iter({f"{root}/{file.path}": file for root, table in tables for file in table.files}.items())
    lines: list[str | None] = []
    end = time.monotonic() + _ALONE_S
    for file in waiting:
        lines.append(look(file))
        if time.monotonic() > end:
            break
    else:
        return [line for line in lines if line is not None]
    from concurrent.futures import ThreadPoolExecutor

    # The rest in threads, because folders are often far away.
    with ThreadPoolExecutor(_LOOKERS, thread_name_prefix="changed") as pool:
        lines += pool.map(look, waiting)
    return [line for line in lines if line is not None]


class FilePixels(PixelSource):
    """The planes of one image in files of the plate's folder.

    Parameters
    ----------
    root
        The plate's folder.
    layout
        Of the image.
    table
        Where its planes lie.
    name
        What the image is called in errors.
    reader
        Name of the format, whose reader decodes what cannot be mapped.

    Raises
    ------
    RepositoryError
        If a file is gone or is not as it was when the plate was imported.
    """

    def __init__(self, root: str, layout: Layout, table: PlaneTable, name: str, reader: str) -> None:
        self._layout = layout
        self._name = name
        self._reader = reader
        self._dtype = np.dtype(layout.dtype)
        self._spots = {(spot.t, spot.c, spot.z): spot for spot in table.spots}
        self._files = table.files
        self._paths = [f"{root}/{file.path}" for file in table.files]
        self.verify()

    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        """Return one plane, ``(Y, X)``, read-only."""
        spot = self._spot(t, c, z)
        path = self._paths[spot.file]
        try:
            plane = self._decode(spot, path) if spot.offset < 0 else self._map(spot, path)
        except OSError as error:
            raise _unreadable(path, error) from error
        plane.flags.writeable = False
        return plane

    def read(self, t: int, c: int, slices: Sequence[int]) -> NDArray[np.generic]:
        """Return planes along z, ``(N, Y, X)``; see `PixelSource.read`."""
        spots = [self._spot(t, c, z) for z in slices]
        if any(spot.offset < 0 or spot.swapped for spot in spots):
            return super().read(t, c, slices)
        planes = np.empty((len(spots), self._layout.size_y, self._layout.size_x), self._dtype)
        for spot, plane in zip(spots, planes, strict=True):
            path = self._paths[spot.file]
            try:
                self._fill(spot, path, plane.reshape(-1).view(np.uint8).data)
            except OSError as error:
                raise _unreadable(path, error) from error
        return planes

    def verify(self) -> None:
        """Check that every file is as it was when the plate was imported."""
        for number in range(len(self._files)):
            self._check(number)

    def close(self) -> None:
        """Do nothing: each plane holds its own map, and no file stays open."""

    def has(self, t: int, c: int, z: int) -> bool:
        """Tell whether there is such a plane."""
        return (t, c, z) in self._spots

    def _check(self, number: int) -> None:
        _check_path(self._paths[number], self._files[number])

    def _open(self, number: int) -> int:
        """Open a file; the caller closes it."""
        return os.open(self._paths[number], os.O_RDONLY | os.O_CLOEXEC)

    def _content(self, number: int) -> Path | BinaryIO:
        """Return a file as readers take it; the caller closes what is open."""
        return Path(self._paths[number])

    def _spot(self, t: int, c: int, z: int) -> PlaneSpot:
        spot = self._spots.get((t, c, z))
        if spot is None:
            raise RepositoryError(f"{self._name} has no plane at t={t}, c={c}, z={z}.")
        return spot

    def _fill(self, spot: PlaneSpot, path: str, memory: memoryview) -> None:
        """Fill the memory of a plane."""
        descriptor = self._open(spot.file)
        try:
            check_status(os.fstat(descriptor), self._files[spot.file], path)
            at = spot.offset
            while memory:
                count = os.preadv(descriptor, [memory], at)
                if count == 0:
                    raise _truncated(path, at + len(memory))
                memory, at = memory[count:], at + count
        finally:
            os.close(descriptor)

    def _map(self, spot: PlaneSpot, path: str) -> NDArray[np.generic]:
        layout, dtype = self._layout, self._dtype
        descriptor = self._open(spot.file)
        try:
            status = os.fstat(descriptor)
            check_status(status, self._files[spot.file], path)
            # A map that reaches beyond the file's end would kill the process when it is read.
            length = layout.size_y * layout.size_x * dtype.itemsize
            if spot.offset + length > status.st_size:
                raise _truncated(path, spot.offset + length)
            stored = dtype.newbyteorder() if spot.swapped else dtype
            mapped = _Mapping(descriptor, spot.offset, length, (layout.size_y, layout.size_x), stored)
        finally:
            os.close(descriptor)
        plane = np.asarray(mapped)
        if spot.swapped:
            return plane.astype(dtype)
        return plane if plane.flags.aligned else plane.copy()

    def _decode(self, spot: PlaneSpot, path: str) -> NDArray[np.generic]:
        from openhcs_jupyter.repository.embedded.formats import PlaneData, reader_of

        layout = self._layout
        data = PlaneData(size_y=layout.size_y, size_x=layout.size_x, dtype=layout.dtype, page=spot.page)
        needed = (spot.file, *spot.parts)
        reader = reader_of(self._reader)
        contents: list[Path | BinaryIO] = []
        try:
            contents += [self._content(number) for number in needed]
            plane = reader.decode(contents, data)
        except (MemoryError, RepositoryError):
            raise
        except Exception as error:
            for number in needed:  # a file that changed is no damaged one
                self._check(number)
            raise RepositoryError(
                f"{path} cannot be decoded: {error}", "The file is damaged. Copy it again, or leave its well out."
            ) from error
        finally:
            for content in contents:
                if not isinstance(content, Path):
                    content.close()
        if plane.shape != (layout.size_y, layout.size_x):
            raise RepositoryError(f"{path} holds a plane of shape {plane.shape}, not as it says.", _AGAIN)
        if plane.dtype.newbyteorder("=") != self._dtype:
            raise RepositoryError(f"{path} holds a plane of {plane.dtype}, not of {self._dtype} as it says.", _AGAIN)
        return plane.astype(self._dtype, copy=False)


class _Mapping:
    """A part of a file in memory, unmapped when the last array that shows it is gone.

    `mmap.mmap` keeps a descriptor open for as long as the map lives, so a step over many planes would run out of them.
    """

    __slots__ = ("__array_interface__", "_address", "_length")

    _unmap = _libc.munmap

    def __init__(self, descriptor: int, offset: int, length: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        ahead = offset % mmap.ALLOCATIONGRANULARITY
        self._length = length + ahead
        self._address = None
        address = _libc.mmap(None, self._length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset - ahead)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address = address
        self.__array_interface__ = {"data": (address + ahead, True), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self) -> None:
        if self._address is not None:
            self._unmap(self._address, self._length)


def check_status(status: os.stat_result, file: FoundFile, path: str) -> None:
    """Check that a file is as it was when it was looked at.

    Raises
    ------
    RepositoryError
        If it is not.
    """
    if status.st_size != file.size or status.st_mtime_ns != file.mtime_ns:
        raise RepositoryError(f"{path} has changed since the plate was imported.", _AGAIN)


def _check_path(path: str, file: FoundFile) -> None:
    try:
        status = os.stat(path)  # noqa: PTH116 Path costs as much as the call
    except FileNotFoundError as error:
        if file.size >= 0:
            raise _unreadable(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    else:
        check_status(status, file, path)


def _truncated(path: str, needed: int) -> RepositoryError:
    return RepositoryError(f"{path} is truncated: a plane needs {needed:,} bytes.", _AGAIN)


def _unreadable(path: str, error: OSError) -> RepositoryError:
    if error.errno == errno.ENOENT:
        return RepositoryError(
            f"{path} is gone.", "Put the plate's files back, or import the folder where they are now."
        )
    return RepositoryError(f"{path} cannot be read: {error.strerror or error}")
