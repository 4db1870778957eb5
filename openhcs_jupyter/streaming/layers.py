"""What a viewer is told of a run: its wells, its layers, and what became ready; plain values that cross the wire."""

from __future__ import annotations

from typing import Literal

import msgspec

from openhcs_jupyter.model import RunStatus, Scope, well_name

LayerKind = Literal["image", "labels", "points", "table"]
Link = Literal["local", "connecting", "connected", "lost", "refused", "closed"]
COARSE = 8
"""A coarse plane has one pixel for each 8 x 8 of the full one."""


class FieldPlace(msgspec.Struct, frozen=True, array_like=True):
    """One field of a well."""

    number: int
    """Counted from 1."""
    position_um: tuple[float, float] | None
    """Stage position ``(y, x)`` of the field's centre in micrometres, y growing downwards."""


class WellPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One well that the run takes."""

    row: int
    column: int
    fields: tuple[FieldPlace, ...]
    units: int
    """Units of work that belong to the well; how many are done is in `Progressed`."""

    @property
    def name(self) -> str:
        """The well's name, such as ``A01``."""
        return well_name(self.row, self.column)


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One output of a run, and of an image one channel of it.

    What a plane measures is known when the first one is there: until then `dtype` is None and the sizes are 0. The
    sizes are the largest of any field; a plane may be smaller and then fills the upper left corner.
    """

    index: int
    """Position in `RunView.layers`."""
    name: str
    """Unique in the run, such as ``max_projection DAPI``."""
    result: str
    """Name of the output or of the step that made it."""
    kind: LayerKind
    scope: Scope
    """``field``: there is one for each field. ``well``: one for each well, with field index 0. ``plate``: one, with
    well and field index 0."""
    channel: str | None = None
    color: str | None = None
    """Display colour, ``RRGGBB`` in hexadecimal."""
    emission_nm: float | None = None
    over: int | None = None
    """Index of the image layer over which labels or points lie; of the labels layer whose objects a table describes."""
    pixel_size_um: float | None = None
    corner_um: tuple[float, float] = (0.0, 0.0)
    """Where its upper left corner ``(y, x)`` lies in the recorded planes."""
    z_step_um: float | None = None
    dtype: str | None = None
    """NumPy's name of the pixel type; None while it is not known, and for points and tables."""
    size_t: int = 0
    size_z: int = 0
    size_y: int = 0
    size_x: int = 0

    @property
    def is_known(self) -> bool:
        """Whether it is known what a plane measures."""
        return self.dtype is not None


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while a run goes on, and its layers as far as they are known."""

    id: str
    name: str
    plate: str
    rows: int
    columns: int
    """Of the plate, also where the run takes only some of its wells."""
    wells: tuple[WellPlace, ...]
    """Those that the run takes, by row and column; a well's index is its position here."""
    fields: tuple[int, ...]
    """Numbers of the fields that the run takes in any well; a field's index is its position here."""
    layers: tuple[Layer, ...]
    units: int
    started: str
    """ISO 8601 in UTC."""
    folder: str = ""
    """The run's folder, on the machine where it lies."""

    def extent(self, layer: Layer) -> tuple[int, int, int, int, int, int]:
        """Return a layer's whole shape: wells, fields, t, z, y, x."""
        wells = 1 if layer.scope == "plate" else len(self.wells)
        fields = len(self.fields) if layer.scope == "field" else 1
        return wells, fields, layer.size_t, layer.size_z, layer.size_y, layer.size_x


class Announcement(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The base of all announcements. Each tells how things stand, not what changed: it may be heard twice."""


class RunAnnounced(Announcement, frozen=True, kw_only=True, tag="run"):
    """There is a run to look at. Heard again for a run that started anew: what was ready before is void."""

    view: RunView


class LayerKnown(Announcement, frozen=True, kw_only=True, tag="layer"):
    """A layer's sizes and dtype are known, or have grown."""

    run: str
    layer: Layer


class StackReady(Announcement, frozen=True, kw_only=True, tag="stack"):
    """All planes of an image or labels layer at one well and field can be fetched."""

    run: str
    layer: int
    well: int
    field: int
    version: str
    """Changes when the pixels do."""
    file: str
    """The file that holds them, relative to the run's folder: an array ``(T, Z, Y, X)``, ``.npy``."""
    size_t: int
    size_z: int
    size_y: int
    size_x: int
    low: float
    """Of an image: robust limits of its contrast. Of labels: 0 and about the highest label."""
    high: float


class TableReady(Announcement, frozen=True, kw_only=True, tag="table"):
    """The rows of a table or points layer at one well and field can be fetched."""

    run: str
    layer: int
    well: int
    field: int
    version: str
    file: str
    """The file that holds them, relative to the run's folder: Arrow's file format."""
    rows: int


class Progressed(Announcement, frozen=True, kw_only=True, tag="progress"):
    """How far the run is, and one of its wells."""

    run: str
    status: RunStatus
    done: int
    failed: int
    well: int | None = None
    """The well whose counts follow; None where they are of units that belong to the whole plate."""
    well_done: int = 0
    well_failed: int = 0
    reason: str = ""
    """Why the first of these units failed, for people, with field and step; empty where none has."""
    message: str = ""
    """Why the run failed or stopped."""


class LinkChanged(Announcement, frozen=True, kw_only=True, tag="link"):
    """How the viewer stands to where the run is; never crosses the wire."""

    link: Link
    detail: str = ""
    """For people: what is wrong and what to do."""


AnyAnnouncement = RunAnnounced | LayerKnown | StackReady | TableReady | Progressed | LinkChanged
