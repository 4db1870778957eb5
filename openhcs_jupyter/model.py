"""The words that all rooms share: plates as OME describes them, and the record of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Literal

import msgspec

ImageKind = Literal["stack", "projection"]
Component = Literal["z", "channel", "field", "t"]
Scope = Literal["field", "well", "plate"]
WIDTH: dict[Scope, int] = {"field": 0, "well": 1, "plate": 2}
"""Scopes by how far they reach."""
RunStatus = Literal["running", "done", "failed", "cancelled", "interrupted"]

_WELL = re.compile(r"^([A-Za-z]{1,2})0*([1-9][0-9]?)$")


def well_name(row: int, column: int) -> str:
    """Name a well by its row and column, both counted from 0: ``(0, 0)`` is ``A01``, ``(31, 47)`` is ``AF48``."""
    letters = chr(65 + row) if row < 26 else chr(64 + row // 26) + chr(65 + row % 26)
    return f"{letters}{column + 1:02d}"


def parse_well(name: str) -> tuple[int, int]:
    """Read a well's row and column, both counted from 0, from a name such as ``A01``, ``a1`` or ``AF48``.

    Raises
    ------
    ValueError
        If `name` is not a well's name.
    """
    match = _WELL.match(name.strip())
    if match is None:
        raise ValueError(f"{name!r} is not a well name; wells are named like A01 or AF48")
    row = 0
    for letter in match[1].upper():
        row = row * 26 + ord(letter) - 64
    return row - 1, int(match[2]) - 1


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of a plate."""

    name: str
    """Unique within the plate; what a step and ``--channels`` name."""
    emission_nm: float | None = None
    excitation_nm: float | None = None
    color: str | None = None
    """Display colour, ``RRGGBB`` in hexadecimal."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What the planes of an image are; many images of a plate share one layout."""

    size_t: int
    size_c: int
    size_z: int
    size_y: int
    size_x: int
    dtype: str
    """NumPy's name of the pixel type in native byte order, such as ``uint16``."""
    missing: tuple[tuple[int, int, int], ...] = ()
    """The ``(t, c, z)`` that have no plane, sorted."""
    pixel_size_um: float | None = None
    """Width of a pixel in micrometres; pixels are square."""
    z_step_um: float | None = None
    t_step_s: float | None = None
    """Seconds from one time point to the next."""

    def has(self, t: int, c: int, z: int) -> bool:
        """Tell whether the image has the plane at time point `t`, channel `c`, slice `z` (all from 0)."""
        inside = 0 <= t < self.size_t and 0 <= c < self.size_c and 0 <= z < self.size_z
        return inside and (not self.missing or (t, c, z) not in self.missing)

    def slices(self, t: int, c: int) -> tuple[int, ...]:
        """List the z at which channel `c` has a plane at time point `t`."""
        return tuple(z for z in range(self.size_z) if self.has(t, c, z))

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane in memory."""
        import numpy as np

        return self.size_y * self.size_x * np.dtype(self.dtype).itemsize


class PixelGrid(msgspec.Struct, frozen=True):
    """How the pixels of an image lie over those that were recorded."""

    factor: float = 1.0
    """Side of its pixels, in recorded pixels."""
    y: float = 0.0
    """Upper edge of its first pixel, in recorded pixels."""
    x: float = 0.0
    """Left edge of it."""

    def then(self, other: PixelGrid) -> PixelGrid:
        """Return how pixels lie that lie so over pixels of this grid."""
        return PixelGrid(
            float(self.factor * other.factor),
            float(self.y + self.factor * other.y),
            float(self.x + self.factor * other.x),
        )


RECORDED = PixelGrid()
"""Of images whose pixels lie as they were recorded."""


def common_grid(grids: Iterable[PixelGrid | None]) -> PixelGrid | None:
    """Return the grid that all of these are; None where one of them is not known, or they differ."""
    different = set(grids)
    return different.pop() if len(different) == 1 else None


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The pixels of one field, of one kind."""

    id: int
    kind: ImageKind
    layout: Layout
    version: str
    """Changes whenever the pixels may have changed; a leaf of every fingerprint."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One position in a well: OMERO's WellSample, a "site" in OpenHCS."""

    id: int
    number: int
    """Counted from 1, as microscopes and OMERO.web do."""
    images: tuple[Image, ...]
    position_um: tuple[float, float] | None = None
    """Stage position ``(y, x)`` of the field's centre in micrometres, y growing downwards."""
    acquired: str | None = None
    """When its first plane was recorded, ISO 8601; in the microscope's own time where no zone is told."""

    def image(self, kind: ImageKind) -> Image | None:
        """Return the field's image of this kind, or None."""
        return next((image for image in self.images if image.kind == kind), None)


class Well(msgspec.Struct, frozen=True, kw_only=True):
    """One well of a plate with its fields in the order of their numbers."""

    id: int
    row: int
    column: int
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        """The well's name, such as ``A01``."""
        return well_name(self.row, self.column)


class Plate(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A plate with everything that compiling a pipeline needs; no pixels."""

    id: int
    name: str
    repository: str
    """URI of the repository that holds the plate, as `openhcs_jupyter.repository.connect` takes it."""
    rows: int
    columns: int
    channels: tuple[Channel, ...]
    """In the order of the channel index c of every image's layout."""
    wells: tuple[Well, ...]
    """Those that have fields, by row and column."""

    def well(self, name: str) -> Well | None:
        """Return the well of this name (``A01``, ``a1``), or None."""
        return self._by_name.get(well_name(*parse_well(name)))

    def channel_index(self, name: str) -> int | None:
        """Return the index c of the channel of this name, or None."""
        return next((c for c, channel in enumerate(self.channels) if channel.name == name), None)

    def fields(self) -> Iterator[tuple[Well, Field]]:
        """Iterate over all fields with their wells."""
        for well in self.wells:
            for field in well.fields:
                yield well, field

    @cached_property
    def _by_name(self) -> dict[str, Well]:
        return {well.name: well for well in self.wells}


class PlateSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a repository's list of plates."""

    id: int
    name: str
    wells: int
    fields: int
    channels: tuple[str, ...]
    planes: int
    bytes: int
    """Of the pixels in memory, uncompressed."""
    format: str
    imported: str
    """When it was registered, ISO 8601 in UTC."""
    source: str
    """Where its files lie."""
    problems: tuple[str, ...] = ()
    """What registering found amiss: unreadable files, missing planes."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a run for good: its provenance."""

    id: str
    name: str
    repository: str
    plate_id: int
    plate_name: str
    source: str
    """The cell or file that defined the pipeline, as the user wrote it."""
    source_name: str
    """Where `source` stood: ``Cell In[3]``, a file's name."""
    options: dict[str, str | int | float | bool | list[str] | None]
    """The options of the run as the user gave them."""
    user: str
    host: str
    started: str
    versions: dict[str, str]
    """Version of Python and of each package whose code takes part."""
    inputs: dict[int, str]
    """Version of every image that the run reads, by the image's id."""
    script: str = ""
    """Python that makes the same steps without the cells before: `source` with all that it takes from them."""
    unsaid: dict[str, str] = {}
    """By name: what `source` takes from earlier cells and cannot be written, so that there is no script."""


class ResultSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of result that a run makes for every field, well or plate."""

    name: str
    kind: Literal["image", "labels", "table", "points"]
    step: int
    """Index of the step that makes it."""
    scope: Scope
    channels: tuple[str, ...] = ()
    """Of an image: its channels in order. Of labels and tables: those it was made from."""
    over: str | None = None
    """Of labels and points: the image result that they lie over."""
    grid: PixelGrid | None = RECORDED
    """How its pixels lie over the recorded ones; None where that is not known."""
