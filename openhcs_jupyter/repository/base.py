"""The contract of a repository: where plates lie, how their pixels are read and where results go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.closing import Closing
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from openhcs_jupyter.model import Channel, Image, Plate, PlateSummary, ResultSpec


class PixelSource(Closing):
    """The planes of one image, opened for reading; a context manager."""

    @abstractmethod
    def plane(self, t: int, c: int, z: int) -> NDArray[np.generic]:
        """Return one plane.

        Parameters
        ----------
        t, c, z
            Indices counted from 0.

        Returns
        -------
        ndarray of shape (Y, X)
            Read-only, in native byte order; a map of the file wherever the file allows.

        Raises
        ------
        RepositoryError
            If the plane is missing or its file is gone, too short or unreadable; names the file.
        """

    def read(self, t: int, c: int, slices: Sequence[int]) -> NDArray[np.generic]:
        """Return planes along z in memory, for whoever looks at all of their pixels: a copy costs less than a map then.

        Parameters
        ----------
        t, c
            Indices counted from 0.
        slices
            Index of each plane along z, at least one.

        Returns
        -------
        ndarray of shape (N, Y, X)
            In native byte order.

        Raises
        ------
        RepositoryError
            As `plane` does.
        """
        planes = [self.plane(t, c, z) for z in slices]
        return planes[0][None] if len(planes) == 1 else np.stack(planes)

    def verify(self) -> None:  # what cannot change need not be checked
        """Check that what was read is still what is there; whoever computed with it calls this before keeping results.

        Raises
        ------
        RepositoryError
            If a file has changed since the plate was imported.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what is held; planes that were handed out stay valid."""


Place = tuple[str | None, int | None]
"""Well and field of results; the field is None for a well whose fields were joined, both for the whole plate."""


class FieldResults(msgspec.Struct, frozen=True, kw_only=True):
    """The pixel results of one field, of one well whose fields were joined, or of the plate; for a writer."""

    well: str | None
    """None: the whole plate."""
    field: int | None
    """Counted from 1; None: of the whole well, or plate."""
    arrays: Mapping[str, NDArray[np.generic]]
    """By the name of the result: images ``(T, C, Z, Y, X)``; labels ``(T, 1, Z, Y, X)``, integers, 0 is background."""
    pixel_size_um: float | None
    """Of the recorded planes; `ResultSpec.grid` says how those of a result lie over them."""
    z_step_um: float | None
    position_um: tuple[float, float] | None = None
    """Stage position ``(y, x)`` of the centre of the recorded planes."""
    t_step_s: float | None = None
    size: tuple[int, int] | None = None
    """Height and width of the recorded planes."""


class ResultWriter(ABC):
    """Puts a run's results into the repository: whole or not at all.

    The conductor of a run calls `begin` once, then `write_field` is called for every place, from any process and in any
    order, then the conductor calls `write_table` and `finish`. Until `finish` nothing of it can be seen as a result.
    All calls may be repeated after an interruption; a repeated call replaces what the first one wrote.
    """

    @abstractmethod
    def begin(self, results: Sequence[ResultSpec], channels: Sequence[Channel], rows: int, columns: int) -> None:
        """Make the place where the results are gathered."""

    @property
    def told(self) -> tuple[str, ...]:
        """What users should know of how results are written, once `begin` was called."""
        return ()

    @abstractmethod
    def write_field(self, field: FieldResults) -> None:
        """Write the images and labels of one field, well or plate."""

    @abstractmethod
    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one table of the whole run."""

    @abstractmethod
    def finish(self, fields: Sequence[Place], documents: Mapping[str, bytes]) -> str:
        """Publish the results with their provenance.

        Parameters
        ----------
        fields
            The place of everything that was written.
        documents
            Files that go with the results, by name: ``provenance.json``, the cell, the plan.

        Returns
        -------
        str
            Where the results are: a folder or a link.
        """

    @abstractmethod
    def abort(self) -> None:
        """Remove what was gathered and not published."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository keeps of the run that made something."""

    record: RunRecord
    plan: bytes
    """As JSON."""
    others: tuple[str, ...] = ()
    """Ids of other runs that made something of the same plate, the newest first."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Some people who share what is in a repository."""

    name: str
    rights: str
    """What members may do with each other's data, for people."""
    plates: int
    chosen: bool


class Repository(Closing):
    """A place that holds plates; safe to use from several threads. A worker process makes its own with `connect`."""

    uri: str
    """What `connect` takes to open the same repository again, in this or another process; holds no secret."""

    @property
    @abstractmethod
    def runs_folder(self) -> Path:
        """Folder of the run store, on this machine."""

    def reach(self) -> None:
        """Join the repository now, not when something is first asked of it, and stay joined while it is open.

        Raises
        ------
        RepositoryError
            If it cannot be reached, or lets the user not in.
        """
        return

    @abstractmethod
    def plates(self) -> list[PlateSummary]:
        """List the plates, by id."""

    @abstractmethod
    def plate(self, plate: int | str) -> Plate:
        """Return a plate by its id or its name.

        Raises
        ------
        RepositoryError
            If there is no such plate, or several of that name; lists what there is.
        """

    def cell_name(self, plate: int, given: object = None) -> str:
        """Return what a cell's ``--plate`` calls a plate.

        Parameters
        ----------
        plate
            Its id.
        given
            What a cell called it; kept where it names less than the plate.
        """
        del given
        return str(plate)

    def trace(self, made: str) -> Trace | None:
        """Find the run that made something, by what a user calls it; None where nothing is kept of it.

        Raises
        ------
        RepositoryError
            If there is no such thing.
        """
        del made
        return None

    def groups(self) -> list[Group]:
        """List the user's groups; a repository that is one person's has none."""
        return []

    def choose_group(self, name: str | None) -> None:
        """Take only plates of one group from now on; None takes those of all groups.

        Raises
        ------
        RepositoryError
            If the user is in no such group.
        """
        raise RepositoryError(f"{self.uri} has no groups" + (f", so not {name!r}." if name else "."))

    @abstractmethod
    def open(self, image: Image) -> PixelSource:
        """Open an image for reading.

        Raises
        ------
        RepositoryError
            If the image is unknown, or changed since the plate was read.
        """

    def changed(self, images: Sequence[Image]) -> list[str]:  # noqa: ARG002 - the interface has it
        """Say which files of these images are gone or not as they were when their plate was read, one line a file.

        Reads nothing. A repository whose images cannot change says nothing.
        """
        return []

    def told_of(self, images: Sequence[Image]) -> tuple[str, ...]:
        """Say what a user should know of how these images are read, such as why not in place."""
        del images
        return ()

    @abstractmethod
    def writer(self, record: RunRecord) -> ResultWriter:
        """Return the writer of a run's results; the same record gives the same place in every process."""

    @abstractmethod
    def delete_results(self, run: str) -> str:
        """Delete what a run has saved, and nothing else.

        Parameters
        ----------
        run
            The run's id.

        Returns
        -------
        str
            What was deleted, for people.

        Raises
        ------
        RepositoryError
            If something of it may not be deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Release connections."""
