"""Images of results as OME-Zarr: files in a folder that OMERO.server sees, too, for images that are registered."""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ResultSpec
from openhcs_jupyter.repository.embedded.layout import file_name, folders
from openhcs_jupyter.repository.embedded.multiscale import remove, write_json, write_multiscale
from openhcs_jupyter.repository.embedded.ngff import Scale, multiscales, rendering
from openhcs_jupyter.repository.omero import queries
from openhcs_jupyter.repository.omero.images import write_image
from openhcs_jupyter.repository.omero.markers import delete_all, marker_of
from openhcs_jupyter.repository.omero.queries import ask
from openhcs_jupyter.repository.omero.sessions import PATIENCE_S, Connection

_PROBE = ResultSpec(name="probe", kind="image", step=0, scope="plate")
_SEND = "Or send pixels to the server: %openhcs config omero_zarr_results ''"


class Probed(NamedTuple):
    """What came out of `probe`."""

    zarr: str
    """Folder of the OME-Zarr image that the server served; empty if it did not."""
    told: str
    """For people."""


class ZarrFolder:
    """The folder of one run: a folder for each result and place, in it the image under a name that no other ever had.

    So files that an interrupted write left are never those of an image, and the server, which may remember what it
    read, never meets other files under a name that it knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_run(cls, root: str, run: str) -> ZarrFolder:
        """Return the folder of a run below the one that ``omero_zarr_results`` names."""
        return cls(Path(root).expanduser() / file_name(run))

    @classmethod
    def of_probe(cls, zarr: str) -> ZarrFolder:
        """Return the folder in which the server has served an image.

        Raises
        ------
        RepositoryError
            If this machine does not see that image: then the server would not see what is written here.
        """
        folder = Path(zarr)
        if not folder.is_dir():
            import socket

            raise RepositoryError(
                f"omero_zarr_results: {folder.parents[3]} on {socket.gethostname()} is not what OMERO serves there.",
                f"Mount it there. {_SEND}",
            )
        return cls(folder.parents[2])

    def write(
        self,
        spec: ResultSpec,
        place: str,
        title: str,
        pixels: NDArray[np.generic],
        channels: Sequence[Channel],
        scale: Scale,
    ) -> Path:
        """Write an image; others of its place stay.

        Returns
        -------
        Path
            Its folder.

        Raises
        ------
        RepositoryError
            If it cannot be written; then nothing of it is left.
        """
        # Nothing that servers could take for a part of a URI; different names stay different.
        result = f"{re.sub('[^A-Za-z0-9]+', '-', spec.name)}-{zlib.crc32(spec.name.encode()):08x}"
        folder = self.path / result / place / f"{uuid.uuid4().hex}.zarr"
        try:
            windows = write_multiscale(folder, pixels, labels=False)
            attributes = {
                "multiscales": multiscales(title, pixels.shape, scale),
                "omero": rendering(title, spec, channels, windows, pixels.shape[2]),
            }
            write_json(folder / ".zattrs", attributes)
        except OSError as error:
            self.discard(folder)
            raise RepositoryError(f"{error.filename or folder} cannot be written: {error.strerror}.", _SEND) from error
        return folder

    def sweep(self, kept: Collection[str]) -> None:
        """Remove what is here but for some images' folders."""
        for result in folders(self.path):
            for place in folders(self.path / result):
                for name in folders(self.path / result / place):
                    if str(folder := self.path / result / place / name) not in kept:
                        self.discard(folder)

    def discard(self, folder: Path) -> None:
        """Remove an image's folder, and those above it that are empty then."""
        remove(folder)
        with suppress(OSError):
            for above in (folder.parent, folder.parents[1], self.path):
                above.rmdir()


def leave_only(folder: Path) -> None:
    """Remove the other images of an image's place, which it replaces."""
    for name in folders(folder.parent):
        if name != folder.name:
            remove(folder.parent / name)


def remove_files(root: str, run: str, registered: Collection[str]) -> str:
    """Remove the files of a run's images, which OMERO has no more.

    Parameters
    ----------
    root
        What ``omero_zarr_results`` names; only what lies below it is removed, whatever OMERO keeps.
    run
        Id of the run.
    registered
        What OMERO kept as the folders of the images.

    Returns
    -------
    str
        What users should know: which folders are elsewhere, and stay.
    """
    others = list(registered)
    if root and (folder := ZarrFolder.of_run(root, run).path).is_dir():
        remove(folder)
        others = [one for one in others if not Path(one).is_relative_to(folder)]
    if not others:
        return ""
    more = f" and {len(others) - 1} more" if others[1:] else ""
    return f" Its OME-Zarr files are not in omero_zarr_results, and stay: {others[0]}{more}."


def probe(connection: Connection, root: str, run: str, context: dict[str, str]) -> Probed:
    """Find out with an image of its own, which goes again, whether the server serves OME-Zarr that is written here.

    Its files stay for the workers to see, until the run is finished; where it is not served, nothing stays.
    """
    folder, marker = ZarrFolder.of_run(root, run), f"{marker_of(run)} {_PROBE.name}"
    # None of the pixels is zero, and no server has them by chance.
    pixels = np.random.default_rng().integers(1, 65535, (1, 1, 1, 16, 24), np.uint16)
    channel = Channel(name=_PROBE.name)
    zarr = None
    try:
        if not folder.path.is_absolute() or not folder.path.parent.is_dir():
            raise RepositoryError("there is no such folder")
        zarr = folder.write(_PROBE, _PROBE.name, marker, pixels, [channel], Scale(None, None, None))
    except RepositoryError as error:
        return _sent(root, error.message)

    def register(session: Any) -> tuple[int, int]:
        image = write_image(session, marker, marker, pixels, [channel], (None, None), context, zarr)
        return image, ask(session, queries.VERSIONS, context, ids=[image])[0][1]

    image, number = connection.call(register, PATIENCE_S)
    why = _why_not_served(connection, number, pixels)
    connection.call(lambda session: delete_all(session, "Image", [image], context), PATIENCE_S)
    if why:
        folder.discard(zarr)
        return _sent(root, why)
    return Probed(str(zarr), f"Images are registered in OMERO as OME-Zarr in {folder.path}.")


def _sent(root: str, why: str) -> Probed:
    return Probed("", f"Images are sent to OMERO, not registered as OME-Zarr in {root}: {why.rstrip('.')}.")


def _why_not_served(connection: Connection, pixels: int, expected: NDArray[np.generic]) -> str:
    """Ask RawPixelsStore for the only plane of an image; say why it is not what was written, empty if it is."""
    import Ice
    import omero

    def look(session: Any) -> bytes:
        store = session.createRawPixelsStore()
        try:
            store.setPixelsId(pixels, False, connection.everywhere)
            data: bytes = store.getPlane(0, 0, 0)
        finally:
            store.close()
        return data

    try:
        data = connection.call(look, PATIENCE_S)
    except (omero.ServerError, Ice.UnknownException) as error:
        said = str(getattr(error, "message", "")).strip() or type(error).__name__
        return f"the server does not give its pixels ({said.splitlines()[0]})"
    plane = np.ascontiguousarray(expected[0, 0, 0], expected.dtype.newbyteorder(">"))
    return "" if data == plane.tobytes() else "the server gives other pixels than those that were written"
