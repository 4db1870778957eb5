"""A folder that looks like the files of a fileset, made of what the broker opens: what readers of formats look at.

TIFF files are there as their headers only, with the size and date of the real ones and holes for pixels; small files of
other kinds are there whole. So formats are recognised as they are in place, by the same readers, and the broker, which
may read everything, never reads a file that somebody has uploaded.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.files import partial_of
from openhcs_jupyter.repository.omero.queries import FileRow

Hand = Callable[[Sequence[str]], list[int]]
"""Opens files by their names below OMERO's managed repository."""

_AT_ONCE = 64
_BLOCK = 4096
_MOST_BYTES = 64 << 20
"""Of all files together that are no TIFF."""
_MARK = "of"


def top_of(files: Sequence[FileRow]) -> PurePosixPath:
    """Return the folder below which all files of a fileset lie, in the managed repository.

    Raises
    ------
    RepositoryError
        If there is none.
    """
    paths = [PurePosixPath(file.path) for file in files]
    if any(path.is_absolute() or ".." in path.parts for path in paths) or any(map(_leads_on, files)):
        raise RepositoryError("its files lie outside of the managed repository")
    top = PurePosixPath(os.path.commonpath(paths))
    if not top.parts:
        raise RepositoryError("its files have no folder of their own")
    return top


def mirror(folder: Path, files: Sequence[FileRow], hand: Hand) -> Path:
    """Make a mirror of a fileset, or take the one that was made of the same files.

    Parameters
    ----------
    folder
        Of the mirror.
    files
        All files of the fileset, as OMERO describes them.
    hand
        Opens them.

    Returns
    -------
    Path
        What is to be read in the place of the fileset's folder.

    Raises
    ------
    RepositoryError
        If a file is not handed out, or is not what OMERO says of it.
    """
    top = top_of(files)
    made_of = hashlib.blake2b(msgspec.json.encode(files)).hexdigest()
    with suppress(OSError):
        if (folder / _MARK).read_text() == made_of:
            return folder / top.name
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = partial_of(folder)
    try:
        _fill(partial, top, files, hand)
        (partial / _MARK).write_text(made_of)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process has just made it
            partial.rename(folder)
    except OSError as error:
        raise RepositoryError(f"their headers cannot be kept in {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / top.name


def is_there(folder: Path) -> bool:
    """Tell whether there is a mirror."""
    return (folder / _MARK).exists()


def forget(folder: Path) -> None:
    """Have a mirror made anew when it is needed next: a file is not what it was."""
    (folder / _MARK).unlink(missing_ok=True)


def _fill(folder: Path, top: PurePosixPath, files: Sequence[FileRow], hand: Hand) -> None:
    other = [file for file in files if not _is_tiff(file)]
    if sum(file.size or 0 for file in other) > _MOST_BYTES:
        raise RepositoryError(f"its files are no TIFF, such as {other[0].name}")
    for start in range(0, len(files), _AT_ONCE):
        some = files[start : start + _AT_ONCE]
        descriptors = hand([f"{file.path}{file.name}" for file in some])
        try:
            for file, descriptor in zip(some, descriptors, strict=True):
                target = folder / top.name / PurePosixPath(file.path).relative_to(top) / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(file, descriptor, target)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _copy(file: FileRow, descriptor: int, target: Path) -> None:
    status = os.fstat(descriptor)
    if status.st_size != file.size:
        raise RepositoryError(f"its file {file.name} has {status.st_size:,} bytes, and OMERO says {file.size}")
    with target.open("wb") as copy:
        os.truncate(copy.fileno(), status.st_size)
        if _is_tiff(file):
            _copy_headers(descriptor, copy.fileno(), status.st_size)
        else:
            os.sendfile(copy.fileno(), descriptor, 0, status.st_size)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_headers(descriptor: int, copy: int, size: int) -> None:
    """Read a file's headers as those do who will read the mirror, and keep what they have read."""
    from openhcs_jupyter.repository.embedded.formats.tiff import TiffFaultError, read_header, read_pages

    for read in (read_header, read_pages):
        with suppress(TiffFaultError):  # told when the mirror is read
            read(cast(BinaryIO, _Copying(descriptor, copy)), size)


class _Copying(io.RawIOBase):
    """A file that writes each block that is read of it into another."""

    def __init__(self, descriptor: int, copy: int) -> None:
        self._descriptor = descriptor
        self._copy = copy
        self._at = 0
        self._size = os.fstat(descriptor).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # any buffer
        start = self._at - self._at % _BLOCK
        end = -(-(self._at + len(view)) // _BLOCK) * _BLOCK
        data = os.pread(self._descriptor, end - start, start)
        os.pwrite(self._copy, data, start)
        wanted = data[self._at - start : self._at - start + len(view)]
        view[: len(wanted)] = wanted
        self._at += len(wanted)
        return len(wanted)


def _leads_on(file: FileRow) -> bool:
    return "/" in file.name or file.name in ("", ".", "..")


def _is_tiff(file: FileRow) -> bool:
    from openhcs_jupyter.repository.embedded.formats.folders import is_tiff

    return is_tiff(file.name)
