"""What can be looked at of a plate or a run: the pixels of a well, its labels, the tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import lazy_loader

from openhcs_jupyter.errors import OpenHCSError, RepositoryError, UsageError
from openhcs_jupyter.model import ImageKind, Plate, PlateSummary, parse_well
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.pictures import Tint
from openhcs_jupyter.widgets.results import tints_of
from openhcs_jupyter.widgets.session import session

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.repository import Repository
else:
    np = lazy_loader.load("numpy")
    pd = lazy_loader.load("pandas")

COUNT = "(rows)"
"""Stands for the number of a table's rows in a well."""
STATISTICS = ("median", "mean", "sum", "min", "max", "std")
_RAW: dict[ImageKind, str] = {"stack": "plate", "projection": "plate, projected"}

Viewable: TypeAlias = "Run | Plate | PlateSummary | int | str"


class Shown(NamedTuple):
    """One image that each field has."""

    name: str
    channels: tuple[str, ...]
    tints: tuple[Tint, ...]


class Source(ABC):
    """One plate, or one run's view of it."""

    title: str
    plate: Plate
    images: tuple[Shown, ...]
    labels: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    @abstractmethod
    def planes(self, image: str, well: str, field: int, channel: str) -> NDArray[np.generic]:
        """Return the slices ``(Z, Y, X)`` of one channel.

        Raises
        ------
        OpenHCSError
            If they are not there.
        """

    @abstractmethod
    def label_planes(self, name: str, well: str, field: int) -> NDArray[np.generic]:
        """Return labels ``(Z, Y, X)``."""

    @abstractmethod
    def table(self, name: str) -> pd.DataFrame:
        """Return a table with a column ``well``."""

    def columns(self, table: str) -> tuple[str, ...]:
        """List what a map can be coloured by: a table's columns of numbers, and how many rows a well has."""
        frame = self.table(table)
        numbers = [str(name) for name in frame.select_dtypes(["number", "bool"]).columns]
        placing = {"field", "label", "t", "z", "y", "x"}
        return (*sorted(numbers, key=lambda name: name in placing), COUNT)

    def values(self, table: str, column: str, statistic: str = "median") -> list[float]:
        """Return a number for each well of the plate, row by row; NaN where there is none."""
        frame = self.table(table)
        groups = frame.groupby("well", observed=True)
        by_well = groups.size() if column == COUNT else groups[column].agg(statistic)
        values = [float("nan")] * (self.plate.rows * self.plate.columns)
        for well, value in by_well.items():
            row, at = parse_well(str(well))
            values[row * self.plate.columns + at] = float(value)
        return values

    def fields(self, well: str) -> tuple[int, ...]:
        """List the numbers of a well's fields."""
        found = self.plate.well(well)
        return tuple(field.number for field in found.fields) if found else ()

    def tints(self, channels: Sequence[str]) -> tuple[Tint, ...]:
        """Return the colours of channels."""
        if len(channels) == 1:
            return (pictures.GREY,)
        known = {channel.name: channel for channel in self.plate.channels}
        return tuple(pictures.tint_of(known.get(name), index) for index, name in enumerate(channels))


class PlateSource(Source):
    """The images of a plate as the microscope saved them."""

    def __init__(self, plate: Plate, repository: Repository) -> None:
        self.plate = plate
        self.title = plate.name
        self.tables = ("plate",)
        self.repository = repository
        kinds = {image.kind for _, field in plate.fields() for image in field.images}
        names = tuple(channel.name for channel in plate.channels)
        self._kinds = {text: kind for kind, text in _RAW.items() if kind in kinds}
        self.images = tuple(Shown(text, names, self.tints(names)) for text in self._kinds)

    def planes(self, image: str, well: str, field: int, channel: str) -> NDArray[np.generic]:
        """Read the slices of one channel."""
        place = self.plate.well(well)
        found = next((one for one in place.fields if one.number == field), None) if place else None
        pixels = found.image(self._kinds[image]) if found else None
        c = self.plate.channel_index(channel)
        if pixels is None or c is None:
            raise RepositoryError(f"{well} field {field} has no {image} image of {channel}.")
        slices = pixels.layout.slices(0, c)
        if not slices:
            raise RepositoryError(f"{well} field {field} has no plane of {channel}.")
        with self.repository.open(pixels) as opened:
            read = [opened.plane(0, c, z) for z in slices]
        return read[0][None] if len(read) == 1 else np.stack(read)  # noqa: PD013 - numpy's

    def label_planes(self, name: str, well: str, field: int) -> NDArray[np.generic]:  # noqa: ARG002 - the interface has it
        """A plate as it was imaged has no labels."""  # noqa: D401 - it says what a plate is
        raise UsageError(f"Plate {self.title} has no labels {name!r}")

    def table(self, name: str) -> pd.DataFrame:  # noqa: ARG002 - the interface has it
        """Return how many fields each well has."""
        wells = [(well.name, len(well.fields)) for well in self.plate.wells]
        return pd.DataFrame(wells, columns=["well", "fields"])


class RunSource(Source):
    """A run's results, and the images that they were made of."""

    def __init__(self, run: Run, raw: PlateSource) -> None:
        self._run = run
        self._raw = raw
        self.plate = raw.plate
        self.title = run.name
        specs = [spec for spec in run.plan.results if spec.scope != "plate"]
        made = [spec for spec in specs if spec.kind == "image"]
        self.images = (*(Shown(spec.name, spec.channels, tuple(tints_of(run, spec))) for spec in made), *raw.images)
        self._made = {spec.name for spec in made}
        self.labels = tuple(spec.name for spec in specs if spec.kind == "labels")
        self.tables = tuple(spec.name for spec in run.plan.results if spec.kind in ("table", "points"))
        self._frames: dict[str, pd.DataFrame] = {}

    def planes(self, image: str, well: str, field: int, channel: str) -> NDArray[np.generic]:
        """Return the slices of one channel, of a result or of the plate."""
        if image not in self._made:
            return self._raw.planes(image, well, field, channel)
        channels = next(shown.channels for shown in self.images if shown.name == image)
        pixels: NDArray[np.generic] = self._run.image(image, well=well, field=field)[0, channels.index(channel)]
        return pixels

    def label_planes(self, name: str, well: str, field: int) -> NDArray[np.generic]:
        """Return labels."""
        pixels: NDArray[np.generic] = self._run.labels(name, well=well, field=field)[0, 0]
        return pixels

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the run; kept once the run has ended."""
        if name not in self._frames:
            frame = self._run.table(name)
            if "well" not in frame.columns:
                frame = pd.DataFrame({"well": []})
            if self._run.status == "running":
                return frame
            self._frames[name] = frame
        return self._frames[name]


def source_of(what: Viewable) -> Source:
    """Find what a user means: a run, a plate, or a plate's id or name in the connected repository.

    Raises
    ------
    OpenHCSError
        If there is no such plate.
    UsageError
        If it is nothing that can be viewed.
    """
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.repository import connect

    if isinstance(what, Run):
        repository = _same(what.record.repository) or connect(what.record.repository)
        try:
            plate = repository.plate(what.record.plate_id)
        except OpenHCSError as error:
            raise RepositoryError(f"The plate of run {what.name} is not there: {error}") from error
        return RunSource(what, PlateSource(plate, repository))
    if isinstance(what, PlateSummary):
        what = what.id
    if isinstance(what, int | str):
        repository = session.joined()
        return PlateSource(repository.plate(what), repository)
    if isinstance(what, Plate):
        return PlateSource(what, _same(what.repository) or connect(what.repository))
    raise UsageError(
        f"{type(what).__name__} is neither a run nor a plate", "Give a run, a plate, or a plate's id or name."
    )


def _same(uri: str) -> Repository | None:
    joined = session.repository
    return joined if joined is not None and joined.uri == uri else None
