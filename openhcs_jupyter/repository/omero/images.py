"""Writes images: made by the server, planes sent through RawPixelsStore, several on the wire at once, or registered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel
from openhcs_jupyter.repository.omero.deleting import delete
from openhcs_jupyter.repository.omero.queries import ask, ask_objects
from openhcs_jupyter.repository.omero.zarr_pixels import ENTITY, ENTITY_ID

_ON_THE_WIRE = 4
_MOST_BYTES = 64 << 20
"""Of one message; OMERO takes 250 MB."""
_TYPES = {
    "bool": "uint8", "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32",
    "uint32": "uint32", "float32": "float", "float64": "double",
}  # fmt: skip
_DESCRIBED = "select i.id from Image i where i.description = :text"
_PIXELS = "select p from Pixels p join fetch p.channels c join fetch c.logicalChannel where p.image.id = :id"


def write_image(
    session: Any,
    name: str,
    description: str,
    pixels: NDArray[np.generic],
    channels: Sequence[Channel],
    scale: tuple[float | None, float | None],
    context: dict[str, str],
    zarr: Path | None = None,
) -> int:
    """Write an image; one with the same description, which only an interrupted write leaves, is replaced.

    Parameters
    ----------
    session
        The service factory.
    name
        Of the image.
    description
        Tells it from all others: run, result, well and field.
    pixels
        ``(T, C, Z, Y, X)``.
    channels
        Their names and colours, one for each C.
    scale
        Width of a pixel and step of z, in micrometres.
    context
        The group in which it is written.
    zarr
        Folder of the OME-Zarr that holds its pixels, for a server that reads it; None sends them.

    Returns
    -------
    int
        The image's id.

    Raises
    ------
    RepositoryError
        If OMERO knows no such pixels.
    """
    from omero.rtypes import rstring

    kind = _TYPES.get(pixels.dtype.name)
    if kind is None:
        raise RepositoryError(f"{name} has {pixels.dtype} pixels, which OMERO does not know.", "Convert to float32.")
    delete(session, {"Image": [row[0] for row in ask(session, _DESCRIBED, context, text=description)]}, context)
    size_t, size_c, size_z, size_y, size_x = pixels.shape
    service = session.getPixelsService()
    pixels_type = session.getTypesService().getEnumeration("omero.model.PixelsType", kind)
    image: int = service.createImage(
        size_x, size_y, size_z, size_t, list(range(size_c)), pixels_type, name, description, context
    ).val
    made = ask_objects(session, _PIXELS, context, id=image)[0]
    _describe(made, channels, scale)
    if zarr is not None:
        made.sha1 = rstring(_digest(pixels))
    session.getUpdateService().saveObject(made, context)
    if zarr is None:
        _send(session, made.id.val, pixels, context)
    else:
        _register(session, image, zarr, context)
    for c in range(size_c):
        service.setChannelGlobalMinMax(made.id.val, c, *limits_of(pixels[:, c]), context)
    return image


def limits_of(pixels: NDArray[np.generic]) -> tuple[float, float]:
    """Return the least and the greatest value; of those that are numbers, by which OMERO chooses a contrast."""
    if pixels.dtype.kind == "f":
        pixels = pixels[np.isfinite(pixels)]
    return (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 1.0)


def _describe(made: Any, channels: Sequence[Channel], scale: tuple[float | None, float | None]) -> None:
    from omero.model import LengthI
    from omero.model.enums import UnitsLength
    from omero.rtypes import rint, rstring

    for channel, wanted in zip(made.copyChannels(), channels, strict=True):
        channel.logicalChannel.name = rstring(wanted.name)
        if wanted.emission_nm:
            channel.logicalChannel.emissionWave = LengthI(wanted.emission_nm, UnitsLength.NANOMETER)
        if wanted.color:
            red, green, blue = (int(wanted.color[i : i + 2], 16) for i in (0, 2, 4))
            channel.red, channel.green, channel.blue, channel.alpha = map(rint, (red, green, blue, 255))
    pixel_um, z_um = scale
    if pixel_um:
        made.physicalSizeX = made.physicalSizeY = LengthI(pixel_um, UnitsLength.MICROMETER)
    if z_um:
        made.physicalSizeZ = LengthI(z_um, UnitsLength.MICROMETER)


def _register(session: Any, image: int, zarr: Path, context: dict[str, str]) -> None:
    """Tell the server where the pixels of an image are, as its Zarr pixel buffer looks for them."""
    from omero.model import ExternalInfoI
    from omero.rtypes import rlong, rstring

    info = ExternalInfoI()
    info.entityType, info.entityId, info.lsid = rstring(ENTITY), rlong(ENTITY_ID), rstring(str(zarr))
    found = session.getQueryService().get("Image", image, context)
    found.details.externalInfo = info
    session.getUpdateService().saveObject(found, context)


def _digest(pixels: NDArray[np.generic]) -> str:
    """Return what RawPixelsStore keeps of pixels that were sent to it, and by which it is seen that they are others."""
    import hashlib

    digest = hashlib.sha1(usedforsecurity=False)
    for t, c, z in np.ndindex(pixels.shape[:3]):
        digest.update(pixels[t, c, z].astype(pixels.dtype.newbyteorder(">")).tobytes())
    return digest.hexdigest()


def _send(session: Any, number: int, pixels: NDArray[np.generic], context: dict[str, str]) -> None:
    store = session.createRawPixelsStore()
    try:
        store.setPixelsId(number, False, context)
        stored = pixels.dtype.newbyteorder(">") if pixels.dtype != bool else np.dtype("u1")
        pyramid = store.requiresPixelsPyramid()
        under_way: deque[Callable[[], object]] = deque()
        for t, c, z in np.ndindex(pixels.shape[:3]):
            for y, x, height, width in _tiles(store, pixels.shape[3:], stored.itemsize, pyramid):
                part = pixels[t, c, z, y : y + height, x : x + width].astype(stored).tobytes()
                under_way.append(_begin(store, part, (t, c, z), (y, x, height, width), pixels.shape[3:], context))
                # A pyramid's tiles must come in their order.
                if pyramid or len(under_way) >= _ON_THE_WIRE:
                    under_way.popleft()()
        while under_way:
            under_way.popleft()()
        store.save(context)
    finally:
        store.close()


def _tiles(store: Any, shape: Sequence[int], itemsize: int, pyramid: bool) -> Iterator[tuple[int, int, int, int]]:
    """Iterate over what is sent in one call: planes, bands of large ones, or a pyramid's tiles."""
    height, width = shape
    if pyramid:
        step_x, step_y = store.getTileSize()
    else:
        step_x, step_y = width, max(1, min(height, _MOST_BYTES // (width * itemsize)))
    for y in range(0, height, step_y):
        for x in range(0, width, step_x):
            yield y, x, min(step_y, height - y), min(step_x, width - x)


def _begin(
    store: Any,
    part: bytes,
    plane: tuple[int, int, int],
    tile: tuple[int, int, int, int],
    shape: Sequence[int],
    context: dict[str, str],
) -> Callable[[], object]:
    """Begin to send a part of a plane; returns what waits until it is there."""
    (t, c, z), (y, x, height, width) = plane, tile
    if (height, width) == tuple(shape):
        begun = store.begin_setPlane(part, z, c, t, _ctx=context)
        return lambda: store.end_setPlane(begun)
    begun = store.begin_setTile(part, z, c, t, x, y, width, height, _ctx=context)
    return lambda: store.end_setTile(begun)
