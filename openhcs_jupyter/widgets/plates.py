"""The plates browser: search, group, thumbnails; a plate that is picked is the one that the next cells take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.fields import Look, Painter, Place
from openhcs_jupyter.widgets.session import session
from openhcs_jupyter.widgets.sources import PlateSource
from openhcs_jupyter.widgets.tiles import Tiles

if TYPE_CHECKING:
    from openhcs_jupyter.model import PlateSummary
    from openhcs_jupyter.repository import Repository

_SIDE = 128


class PlatesBrowser:
    """Shows the plates of a repository.

    Parameters
    ----------
    repository
        Holds them.
    plates
        What is listed.
    """

    def __init__(self, repository: Repository, plates: Sequence[PlateSummary]) -> None:
        from openhcs_jupyter.widgets.canvas import PlatesCanvas

        self._repository = repository
        self._painter = Painter()
        self._names = {plate.id for plate in plates}
        chosen = session.plate if session.plate in self._names else None
        listed = [_card(plate) for plate in plates]
        self.widget = PlatesCanvas(self._answer, plates=listed, where=repository.uri, chosen=chosen)
        self._tiles = Tiles(self.widget.send)

    def _answer(self, content: Mapping[str, Any]) -> None:
        kind = content.get("type")
        if kind == "ack":
            self._tiles.answered(int(content["number"]))
        elif kind == "thumbnail" and content["plate"] in self._names:
            self._tiles.add(str(content["plate"]), partial(self._thumbnail, int(content["plate"])))
        elif kind == "pick" and content["plate"] in self._names:
            session.plate = self.widget.chosen = int(content["plate"])

    def _thumbnail(self, plate_id: int) -> bytes:
        """Draw the first field of the plate's middle well; nothing where it cannot be read."""
        try:
            source = PlateSource(self._repository.plate(plate_id), self._repository)
            wells = source.plate.wells
            if not wells or not source.images:
                return b""
            shown = source.images[0]
            well = wells[len(wells) // 2].name
            place = Place(source, well, source.fields(well)[0])
            for channels in (shown.channels[:3], shown.channels[:1]):
                look = Look(shown.name, channels, None, None, False)
                try:
                    planes = {name: self._painter.plane(place, look, name, _SIDE)[0] for name in channels}
                except OpenHCSError:
                    continue
                contrast = {name: pictures.limits(plane) for name, plane in planes.items()}
                return pictures.encoded(self._painter.draw(place, look, contrast, _SIDE))
        except OpenHCSError:
            pass  # the plate's own card says what is amiss with it
        return b""


def _card(plate: PlateSummary) -> dict[str, Any]:
    channels = ", ".join(plate.channels[:5]) + (" \u2026" if len(plate.channels) > 5 else "")
    problems = f"{len(plate.problems)} problem{'s' * (len(plate.problems) != 1)}" if plate.problems else ""
    return {
        "id": plate.id,
        "name": plate.name,
        "screen": PurePath(plate.source).parent.name,
        "wells": plate.wells,
        "fields": plate.fields,
        "channels": channels,
        "format": plate.format,
        "size": _size(plate.bytes),
        "day": plate.imported[:10],
        "problems": problems,
    }


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
