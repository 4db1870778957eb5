"""Pixels through the server, plane by plane: what always works, where files may not be read."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository.base import PixelSource
from openhcs_jupyter.repository.omero.sessions import Connection

_AHEAD = 4
"""Requests under way at once: the next planes are on the wire while this one is unpacked."""


class RawPixels(PixelSource):
    """Planes asked of RawPixelsStore, several at once; never more than `_AHEAD` are held.

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
    """

    def __init__(self, connection: Connection, pixels: int, layout: Layout, name: str) -> None:
        self._connection = connection
        self._pixels = pixels
        self._layout = layout
        self._name = name
        self._lock = threading.Lock()
        self._store: Any = None
        self._asked: dict[tuple[int, int, int], Any] = {}

    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        """Return one plane; the next ones of the image are asked for at once."""
        with self._lock:
            try:
                data = self._received(t, c, z)
            except RepositoryError:
                raise
            except Exception:  # noqa: BLE001 - a broken session or store: once more with a new one
                self._forget()
                data = self._again(t, c, z)
        layout = self._layout
        stored = np.dtype(layout.dtype).newbyteorder(">")
        plane = np.frombuffer(data, stored).reshape(layout.size_y, layout.size_x).astype(layout.dtype)
        plane.flags.writeable = False
        return plane

    def close(self) -> None:
        """Close the store on the server."""
        with self._lock:
            self._forget()

    def _received(self, t: int, c: int, z: int) -> bytes:
        store = self._opened()
        wanted = [(t, c, z), *self._following(t, c, z)]
        for place in [place for place in self._asked if place not in wanted]:
            del self._asked[place]  # read in another order: what was asked ahead is not needed
        for place in wanted:
            self._ask(store, place)
        data: bytes = store.end_getPlane(self._asked.pop((t, c, z)))
        return data

    def _ask(self, store: Any, place: tuple[int, int, int]) -> None:
        if place not in self._asked:
            t, c, z = place
            self._asked[place] = store.begin_getPlane(z, c, t)

    def _following(self, t: int, c: int, z: int) -> list[tuple[int, int, int]]:
        """Name the planes that are read next: along z, then the next channel's."""
        layout = self._layout
        index = (t * layout.size_c + c) * layout.size_z + z
        last = layout.size_t * layout.size_c * layout.size_z
        found = []
        for one in range(index + 1, min(index + _AHEAD, last)):
            rest, next_z = divmod(one, layout.size_z)
            next_t, next_c = divmod(rest, layout.size_c)
            found.append((next_t, next_c, next_z))
        return found

    def _opened(self) -> Any:
        if self._store is None:
            self._store = self._connection.call(self._new_store)
        return self._store

    def _new_store(self, session: Any) -> Any:
        store = session.createRawPixelsStore()
        store.setPixelsId(self._pixels, False, self._connection.services())
        return store

    def _again(self, t: int, c: int, z: int) -> bytes:
        try:
            self._connection.call(lambda session: session.keepAlive(None))
            return self._received(t, c, z)
        except RepositoryError:
            raise
        except Exception as error:
            said = getattr(error, "message", "") or str(error)
            raise RepositoryError(
                f"OMERO does not give plane t={t} c={c} z={z} of {self._name}: {said.strip()}",
                "Open the image in OMERO.web to see whether it is whole.",
            ) from error

    def _forget(self) -> None:
        self._asked.clear()
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._store.close()
            self._store = None
