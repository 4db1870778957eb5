"""Planes of imported files that the broker opens: mapped or decoded as those of files that are read by their paths."""

from __future__ import annotations

import os
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Layout
from openhcs_jupyter.repository.embedded.pixels import FilePixels, check_status
from openhcs_jupyter.repository.omero.mirror import Hand, forget

if TYPE_CHECKING:
    from openhcs_jupyter.repository.embedded.pixels import PlaneTable

AT_ONCE = 32
"""Files that are open at once."""


def names_of(root: str, table: PlaneTable, mirror: Path, above: str) -> list[str]:
    """Return what OMERO calls the files of an image; parameters as of `HandedPixels`."""
    folder = PurePosixPath(above, Path(root).relative_to(mirror))
    return [str(folder / file.path) for file in table.files]


class HandedPixels(FilePixels):
    """The planes of one image in files that somebody else opens, some at once.

    Parameters
    ----------
    root, layout, table, name, reader
        Of the image in the mirror of its fileset, see `FilePixels`.
    mirror
        In which `root` is.
    above
        What OMERO's managed repository has where `mirror` is.
    hand
        Opens its files.
    """

    def __init__(
        self,
        root: str,
        layout: Layout,
        table: PlaneTable,
        name: str,
        reader: str,
        mirror: Path,
        above: str,
        hand: Hand,
    ) -> None:
        self._names = names_of(root, table, mirror, above)
        self._hand = hand
        self._mirror = mirror
        self._lock = threading.Lock()
        self._held: dict[int, int] = {}
        self._used: set[int] = set()
        """Files of which something was read."""
        super().__init__(root, layout, table, name, reader)

    def verify(self) -> None:
        """Check that the files that were read are as they were when the mirror was made."""
        for number in sorted(self._used):
            self._check(number)

    def close(self) -> None:
        """Close the files; planes have maps of their own."""
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        self._drop()

    def _open(self, number: int) -> int:
        with self._lock:
            if number not in self._held:
                self._drop()
                first = number if len(self._files) > AT_ONCE else 0
                wanted = range(first, min(first + AT_ONCE, len(self._files)))
                self._held = dict(zip(wanted, self._hand([self._names[one] for one in wanted]), strict=True))
            self._used.add(number)
            descriptor = os.dup(self._held[number])
        try:
            check_status(os.fstat(descriptor), self._files[number], self._paths[number])
        except RepositoryError as error:
            os.close(descriptor)
            forget(self._mirror)
            raise RepositoryError(
                f"{self._files[number].path} of {self._name} has changed since its plate was loaded.",
                "Load the plate again.",
            ) from error
        return descriptor

    def _check(self, number: int) -> None:
        os.close(self._open(number))

    def _content(self, number: int) -> Path | BinaryIO:
        # Its name is nobody's: what opened it again, by its name, would find the holes of the mirror.
        return open(f"{self._paths[number]}, opened by the broker", "rb", opener=lambda *_: self._open(number))

    def _drop(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held = {}
