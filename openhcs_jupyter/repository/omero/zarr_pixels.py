"""Pixels of images that are registered in OMERO as OME-Zarr: read from their chunks, where those may be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository.base import PixelSource

ENTITY = "com.glencoesoftware.ngff:multiscales"
ENTITY_ID = 3
_ARRAY = "0"


def folder_of_group(path: str, roots: Sequence[Path]) -> Path:
    """Return the folder of an image, from what OMERO keeps of it.

    Raises
    ------
    RepositoryError
        If it is no folder below one of `roots`, the folders that may be read; says why, without the image's name.
    """
    parts = urlsplit(path)
    if parts.scheme not in ("", "file"):
        raise RepositoryError(f"its OME-Zarr lies at {parts.scheme}://{parts.netloc}")
    folder = Path(unquote(parts.path) if parts.scheme else path)
    inside = (roots[0] / folder).resolve()
    if not any(inside.is_relative_to(root.resolve()) for root in roots):
        raise RepositoryError(f"its OME-Zarr {folder} lies outside of {' and '.join(map(str, roots))}")
    if not inside.is_dir():
        raise RepositoryError(f"its OME-Zarr {folder} is not there")
    return inside


class ZarrPixels(PixelSource):
    """Planes of an OME-Zarr image (NGFF 0.4: t, c, z, y, x), the largest of its resolutions.

    Parameters
    ----------
    folder
        Of the multiscales group.
    layout
        What OMERO says of the planes.
    name
        Of the image, for errors.

    Raises
    ------
    RepositoryError
        If there is no such array, or it is not what OMERO says.
    """

    def __init__(self, folder: Path, layout: Layout, name: str) -> None:
        from openhcs_jupyter.repository.embedded.formats.zarr_arrays import FILES, ZarrFaultError, read_array

        self._folder = folder / _ARRAY
        self._name = name
        self._dtype = np.dtype(layout.dtype)
        try:
            described = next(file for file in FILES if (self._folder / file).is_file())
            self._array = read_array(self._folder, described)
        except (StopIteration, OSError, ZarrFaultError) as error:
            raise self._damaged(str(error) or "there is no array") from error
        shape = (layout.size_t, layout.size_c, layout.size_z, layout.size_y, layout.size_x)
        if self._array.shape != shape or self._array.pixels != layout.dtype:
            found = f"{self._array.shape} of {self._array.pixels}"
            raise self._damaged(f"it has {found}, and OMERO says {shape} of {layout.dtype}")

    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        """Return one plane, decoded."""
        from openhcs_jupyter.repository.embedded.formats.zarr_arrays import ZarrFaultError

        number = self._array.plane(t, c, z)
        try:
            decoded = self._array.read(number, [self._folder / key for key in self._array.keys(number)])
        except (OSError, ZarrFaultError) as error:
            raise self._damaged(f"plane t={t} c={c} z={z}: {error}") from error
        plane = np.ascontiguousarray(decoded, self._dtype)
        plane.flags.writeable = False
        return plane

    def close(self) -> None:
        """Release nothing: files are open only while a plane is read."""

    def _damaged(self, why: str) -> RepositoryError:
        return RepositoryError(
            f"The OME-Zarr of {self._name} in {self._folder} cannot be read: {why}.",
            "To read it through the server: %openhcs config omero_binary_repository ''",
        )
