"""Pixels in OMERO's own files: one file an image, big-endian, without a header."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository.base import PixelSource


def path_of(folder: str, number: int) -> Path:
    """Return the file of an id below ``Pixels`` or ``Files``: a folder for each thousand.

    ``1234567`` is ``Dir-001/Dir-234/1234567``, ``999`` is ``999``.
    """
    parts: list[str] = []
    rest = number
    while rest > 999:
        rest //= 1000
        if rest > 0:
            parts.insert(0, f"Dir-{rest % 1000:03d}")
    return Path(folder, *parts, str(number))


class RomioPixels(PixelSource):
    """Planes of a file in OMERO's own layout, mapped.

    Parameters
    ----------
    descriptor
        Of the open file; the map keeps its own.
    layout
        What the planes are.
    name
        Of the image, for errors.

    Raises
    ------
    RepositoryError
        If the file is shorter than its planes.
    """

    def __init__(self, descriptor: int, layout: Layout, name: str) -> None:
        import mmap
        import os

        stored = np.dtype(layout.dtype).newbyteorder(">")
        shape = (layout.size_t, layout.size_c, layout.size_z, layout.size_y, layout.size_x)
        wanted = math.prod(shape) * stored.itemsize
        size = os.fstat(descriptor).st_size
        if size < wanted:
            raise RepositoryError(
                f"The pixels' file of {name} has {size} bytes, its {shape} planes need {wanted}.",
                "The image may still be written; if not, ask your OMERO administrator.",
            )
        memory = mmap.mmap(descriptor, wanted, prot=mmap.PROT_READ)
        self._planes = np.frombuffer(memory, stored).reshape(shape)
        self._native = np.dtype(layout.dtype)

    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        """Return one plane, its bytes swapped."""
        plane: NDArray[np.generic] = self._planes[t, c, z].astype(self._native)
        plane.flags.writeable = False
        return plane

    def close(self) -> None:
        """Let go of the map; planes are copies."""
        del self._planes
