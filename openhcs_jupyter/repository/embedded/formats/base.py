"""What a reader of a microscope's folders does, and the plain values in which it tells what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from openhcs_jupyter.model import Channel, ImageKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
"""Called with how many files are done and how many there are."""

WellPlace = tuple[int, int]
"""Row and column of a well, both counted from 0."""
FieldPlace = tuple[int, int, int]
"""Row and column of a well, counted from 0, and number of a field, counted from 1."""


class FoundFile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file as it was when it was looked at."""

    path: str
    """Relative to the plate's folder, with ``/`` between folders."""
    size: int
    """Bytes; -1 where no such file was there, and none may come."""
    mtime_ns: int

    @classmethod
    def of(cls, root: Path, path: str) -> FoundFile:
        """Look at the file `path` below the plate's folder `root`.

        Raises
        ------
        OSError
            If it is not there.
        """
        status = (root / path).stat()
        return cls(path, status.st_size, status.st_mtime_ns)


class PlaneData(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where in a file a plane lies, and what its pixels are."""

    size_y: int
    size_x: int
    dtype: str
    """NumPy's name in native byte order, such as ``uint16``."""
    page: int = 0
    """Of a file with several planes: which one, as `Reader.decode` counts them."""
    offset: int | None = None
    """Of the first byte, where the plane lies uncompressed and in one piece; None: it must be decoded."""
    swapped: bool = False
    """The bytes at `offset` are in the order that is not the machine's."""


class FoundPlane(msgspec.Struct, frozen=True, kw_only=True):
    """One plane that a file's name promises."""

    row: int
    column: int
    """Of the well, from 0."""
    field: int
    """From 1."""
    kind: ImageKind
    t: int
    c: int
    z: int
    """Indices from 0; c is the index in `FoundPlate.channels`."""
    file: FoundFile
    data: PlaneData | None
    """None: the file cannot be used."""
    parts: tuple[FoundFile, ...] = ()
    """Further files that the plane hangs on, such as chunks."""
    fault: str | None = None
    """Why the file cannot be used; names the file."""


class FoundField(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a field beside its planes."""

    position_um: tuple[float, float] | None = None
    """Of the stage, ``(y, x)``, y growing downwards."""
    acquired: str | None = None
    """When its first plane was recorded, ISO 8601."""
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    t_step_s: float | None = None
    """None in these three: as the plate says."""


class FoundPlate(msgspec.Struct, frozen=True, kw_only=True):
    """A plate as a reader found it: nothing checked yet against the rest of the plate."""

    name: str
    format: str
    """Such as ``ImageXpress``."""
    root: Path
    """Absolute; the folder in which the plate starts."""
    channels: tuple[Channel, ...]
    planes: list[FoundPlane]
    fields: Mapping[FieldPlace, FoundField] = {}
    """Those of which more is known than their planes."""
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    t_step_s: float | None = None
    """Seconds from one time point to the next."""
    rows: int | None = None
    columns: int | None = None
    """Of the plate, where its files tell; None: the smallest usual plate that has its wells."""
    problems: tuple[str, ...] = ()
    """What is amiss with the folder as a whole."""


class Reader(ABC):
    """Reads one format. Those of other packages are found by the entry point group ``openhcs_jupyter.formats``.

    A reader is made without arguments, in the process that imports a plate and in every worker that decodes its planes.
    """

    name: str
    """What users read, such as ``ImageXpress``."""
    looks_for: str
    """One phrase that tells what makes a folder this reader's, for the error when no reader wants a folder."""

    @abstractmethod
    def recognise(self, folder: Path) -> float:
        """Tell how sure the reader is that `folder` is its own: 0 is no, 1 is beyond doubt.

        Looks at names, and into one small file where names do not tell.
        """

    @abstractmethod
    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in `folder`: every file's header, no pixels.

        Raises
        ------
        RepositoryError
            If the folder holds no plate, or several.
        """

    def decode(self, files: Sequence[Path | BinaryIO], data: PlaneData) -> NDArray[np.generic]:
        """Read one plane that does not lie uncompressed and in one piece: here, a page of a TIFF file.

        Parameters
        ----------
        files
            The plane's file, then its `FoundPlane.parts`. Open files stand for those that only somebody else may open;
            a reader that cannot take them raises an error, and the plane comes another way.
        data
            What `read` said of the plane.

        Returns
        -------
        ndarray of shape (Y, X)
            Of the shape and type that `data` says; any byte order.

        Raises
        ------
        Exception
            Of any kind, if the file is damaged; the user is told which file it is.
        """
        import tifffile

        with tifffile.TiffFile(files[0]) as tiff:
            plane: NDArray[np.generic] = tiff.pages[data.page].asarray(maxworkers=1)
            return plane
