"""Writes labels as ROIs on an image, and finds and removes those of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from openhcs_jupyter.repository.omero.masks import Mask
from openhcs_jupyter.repository.omero.queries import ask

_BATCH = 500
_MOST_BYTES = 16 << 20
_OF_IMAGE = "select r.id from Roi r where r.image.id = :id and r.name = :name"
_COLOURS = (0xFF00FF60, 0x00FFFF60, 0xFFFF0060, 0xFF800060, 0x80FF0060, 0x0080FF60)


def write_rois(session: Any, image: int, name: str, masks: Iterable[Mask], context: dict[str, str]) -> dict[int, int]:
    """Write objects as ROIs, some hundred a call; what stood under the same name on the image is replaced.

    Parameters
    ----------
    session
        The service factory.
    image
        Id of the image on which they lie.
    name
        Of the run and its labels: what tells these ROIs from others.
    masks
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
    by_label: dict[int, list[Mask]] = defaultdict(list)
    for mask in masks:
        by_label[mask.label].append(mask)
    from omero.model import ImageI

    update = session.getUpdateService()
    on = ImageI(image, False)
    ids: dict[int, int] = {}
    for batch in _batches(by_label.items()):
        saved = update.saveAndReturnIds([_roi(on, name, shapes) for _, shapes in batch], context)
        ids |= {label: number for (label, _), number in zip(batch, saved, strict=True)}
    return ids


def _batches(items: Iterable[tuple[int, list[Mask]]]) -> Iterator[list[tuple[int, list[Mask]]]]:
    """Iterate over objects in messages that are neither many nor large."""
    batch: list[tuple[int, list[Mask]]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(len(mask.bits) for mask in item[1])
        if len(batch) >= _BATCH or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _roi(image: Any, name: str, masks: list[Mask]) -> Any:
    from omero.model import RoiI
    from omero.rtypes import rstring

    roi = RoiI()
    roi.image = image
    roi.name = rstring(name)
    for mask in masks:
        roi.addShape(_shape(mask))
    return roi


def _shape(mask: Mask) -> Any:
    from omero.model import MaskI
    from omero.rtypes import rdouble, rint, rstring

    shape = MaskI()
    shape.x, shape.y = rdouble(mask.x), rdouble(mask.y)
    shape.width, shape.height = rdouble(mask.width), rdouble(mask.height)
    shape.theZ, shape.theT = rint(mask.z), rint(mask.t)
    shape.textValue = rstring(str(mask.label))
    colour = _COLOURS[mask.label % len(_COLOURS)]
    shape.fillColor = rint(colour - (1 << 32) if colour >= 1 << 31 else colour)
    shape.setBytes(mask.bits)
    return shape
