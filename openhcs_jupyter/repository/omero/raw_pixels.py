"""Pixels through the server, plane by plane: what always works, where files may not be read."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository.base import PixelSource
from openhcs_jupyter.repository.omero.sessions import Connection

_AHEAD = 4
"""Requests under way at once: the next ones are on the wire while this one is unpacked."""
_MOST_BYTES = 16 << 20
"""Of one answer. Larger planes come in bands: a message may have 250 MB, and a pyramid has no planes."""
LARGEST_PLANE = 3192 * 3192
"""Pixels; larger images OMERO keeps as pyramids."""


class _Band(NamedTuple):
    """Some rows of a plane."""

    t: int
    c: int
    z: int
    y: int
    rows: int


class RawPixels(PixelSource):
    """Planes asked of RawPixelsStore, several requests at once; never more than `ahead` answers are held.

    Parameters
    ----------
    connection
        The session.
    pixels
        Id of the Pixels.
    layout
        What the planes are.
    name
        Of the image, for errors.
    patience_s
        A server that is away is waited for so long.
    ahead
        Requests under way at once.
    """

    def __init__(
        self,
        connection: Connection,
        pixels: int,
        layout: Layout,
        name: str,
        patience_s: float = 0.0,
        ahead: int = _AHEAD,
    ) -> None:
        self._ahead = ahead
        self._connection = connection
        self._pixels = pixels
        self._layout = layout
        self._name = name
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._store: Any = None
        self._asked: dict[_Band, Any] = {}
        whole = layout.plane_bytes <= _MOST_BYTES and layout.size_y * layout.size_x <= LARGEST_PLANE
        self._rows = layout.size_y if whole else max(1, _MOST_BYTES * layout.size_y // layout.plane_bytes)

    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        """Return one plane; the next ones of the image are asked for at once."""
        layout = self._layout
        stored = np.dtype(layout.dtype).newbyteorder(">")
        plane = np.empty((layout.size_y, layout.size_x), layout.dtype)
        with self._lock:
            for y in range(0, layout.size_y, self._rows):
                band = _Band(t, c, z, y, min(self._rows, layout.size_y - y))
                data = np.frombuffer(self._read(band), stored)
                plane[y : y + band.rows] = data.reshape(band.rows, layout.size_x)
        plane.flags.writeable = False
        return plane

    def close(self) -> None:
        """Close the store on the server."""
        with self._lock:
            self._forget()

    def _read(self, band: _Band) -> bytes:
        import omero

        def look(session: Any) -> bytes:
            try:
                return self._received(session, band)
            except BaseException:
                self._forget()
                raise

        try:
            return self._connection.call(look, self._patience_s)
        except omero.MissingPyramidException as error:
            raise RepositoryError(
                f"OMERO is still making the pyramid of {self._name}.", "Try again when OMERO.web shows the image."
            ) from error
        except omero.ServerError as error:
            raise RepositoryError(
                f"OMERO does not give plane t={band.t} c={band.c} z={band.z} of {self._name}: {error.message.strip()}",
                "Open the image in OMERO.web to see whether it is whole.",
            ) from error

    def _received(self, session: Any, band: _Band) -> bytes:
        if self._store is None:
            self._store = session.createRawPixelsStore()
            self._store.setPixelsId(self._pixels, False, self._connection.everywhere)
        wanted = [band, *self._following(band)]
        for one in [one for one in self._asked if one not in wanted]:
            del self._asked[one]  # read in another order: what was asked ahead is not needed
        for one in wanted:
            if one not in self._asked:
                self._asked[one] = self._begin(one)
        answer = self._asked.pop(band)
        data: bytes = self._store.end_getPlane(answer) if self._is_plane(band) else self._store.end_getTile(answer)
        return data

    def _begin(self, band: _Band) -> Any:
        if self._is_plane(band):
            return self._store.begin_getPlane(band.z, band.c, band.t)
        return self._store.begin_getTile(band.z, band.c, band.t, 0, band.y, self._layout.size_x, band.rows)

    def _is_plane(self, band: _Band) -> bool:
        return self._rows == self._layout.size_y and band.rows == self._rows

    def _following(self, band: _Band) -> list[_Band]:
        """Name the bands that are read next: down the plane, along z, then the next channel's."""
        layout = self._layout
        in_plane = -(-layout.size_y // self._rows)
        index = ((band.t * layout.size_c + band.c) * layout.size_z + band.z) * in_plane + band.y // self._rows
        last = layout.size_t * layout.size_c * layout.size_z * in_plane
        found = []
        for one in range(index + 1, min(index + self._ahead, last)):
            plane, part = divmod(one, in_plane)
            rest, z = divmod(plane, layout.size_z)
            t, c = divmod(rest, layout.size_c)
            y = part * self._rows
            found.append(_Band(t, c, z, y, min(self._rows, layout.size_y - y)))
        return found

    def _forget(self) -> None:
        self._asked.clear()
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._store.close()
            self._store = None
