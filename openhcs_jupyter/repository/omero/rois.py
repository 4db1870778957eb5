"""Writes labels as ROIs on an image, and finds and removes those of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from openhcs_jupyter.repository.omero.masks import Mask
from openhcs_jupyter.repository.omero.outlines import Outline
from openhcs_jupyter.repository.omero.queries import ask

_Object = tuple[int, list[Mask | Outline]]
"""A label, and its shapes."""
_BATCH = 500
_MOST_BYTES = 16 << 20
_OF_IMAGE = "select r.id from Roi r where r.image.id = :id and r.name = :name"
_COLOURS = (0xFF00FF60, 0x00FFFF60, 0xFFFF0060, 0xFF800060, 0x80FF0060, 0x0080FF60)


def write_rois(
    session: Any, image: int, name: str, shapes: Iterable[Mask | Outline], context: dict[str, str]
) -> dict[int, int]:
    """Write objects as ROIs, some hundred a call; what stood under the same name on the image is replaced.

    Parameters
    ----------
    session
        The service factory.
    image
        Id of the image on which they lie.
    name
        Of the run and its labels: what tells these ROIs from others.
    shapes
        Of all objects.
    context
        The group in which they are written.

    Returns
    -------
    dict
        Id of the ROI of each label.
    """
    from openhcs_jupyter.repository.omero.deleting import delete

    old = [row[0] for row in ask(session, _OF_IMAGE, context, id=image, name=name)]
    if old:
        delete(session, {"Roi": old}, context)
    by_label: dict[int, list[Mask | Outline]] = defaultdict(list)
    for shape in shapes:
        by_label[shape.label].append(shape)
    from omero.model import ImageI

    update = session.getUpdateService()
    on = ImageI(image, False)
    ids: dict[int, int] = {}
    for batch in _batches(by_label.items()):
        saved = update.saveAndReturnIds([_roi(on, name, one) for _, one in batch], context)
        ids |= {label: number for (label, _), number in zip(batch, saved, strict=True)}
    return ids


def _batches(items: Iterable[_Object]) -> Iterator[list[_Object]]:
    """Iterate over objects in messages that are neither many nor large."""
    batch: list[_Object] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(len(shape.bits if isinstance(shape, Mask) else shape.points) for shape in item[1])
        if len(batch) >= _BATCH or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _roi(image: Any, name: str, shapes: list[Mask | Outline]) -> Any:
    from omero.model import RoiI
    from omero.rtypes import rint, rstring

    roi = RoiI()
    roi.image = image
    roi.name = rstring(name)
    for one in shapes:
        shape = _mask(one) if isinstance(one, Mask) else _polygon(one)
        shape.theZ, shape.theT = rint(one.z), rint(one.t)
        shape.textValue = rstring(str(one.label))
        roi.addShape(shape)
    return roi


def _mask(mask: Mask) -> Any:
    from omero.model import MaskI
    from omero.rtypes import rdouble

    shape = MaskI()
    shape.x, shape.y = rdouble(mask.x), rdouble(mask.y)
    shape.width, shape.height = rdouble(mask.width), rdouble(mask.height)
    shape.fillColor = _colour(mask.label)
    shape.setBytes(mask.bits)
    return shape


def _polygon(outline: Outline) -> Any:
    from omero.model import PolygonI
    from omero.rtypes import rstring

    shape = PolygonI()
    shape.points = rstring(outline.points)
    shape.strokeColor = _colour(outline.label)
    return shape


def _colour(label: int) -> Any:
    from omero.rtypes import rint

    colour = _COLOURS[label % len(_COLOURS)]
    return rint(colour - (1 << 32) if colour >= 1 << 31 else colour)
