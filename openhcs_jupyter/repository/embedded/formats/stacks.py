"""What the pages of a TIFF file are: time points, channels and slices, as OME-XML, ImageJ or the user say."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from openhcs_jupyter.model import Channel
from openhcs_jupyter.repository.embedded.formats.metadata import micrometres, real, seconds
from openhcs_jupyter.repository.embedded.formats.ome_xml import read_ome
from openhcs_jupyter.repository.embedded.formats.tiff import TiffFaultError, TiffPages

Axis = Literal["t", "channel", "z"]
AXES: tuple[Axis, ...] = ("z", "t", "channel")
"""In the order in which they are taken where nothing says what pages are."""


class PagePlace(msgspec.Struct, frozen=True, array_like=True):
    """What one page is."""

    page: int
    t: int = 0
    c: int = 0
    z: int = 0


class PageStack(msgspec.Struct, frozen=True, kw_only=True):
    """What the pages of a file are."""

    places: tuple[PagePlace, ...]
    channels: tuple[Channel, ...] = ()
    """Those that the file names."""
    size_t: int = 1
    size_c: int = 1
    size_z: int = 1
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    t_step_s: float | None = None
    position_um: tuple[float, float] | None = None
    acquired: datetime | None = None
    taken_as: Axis | None = None
    """What pages were taken for where nothing said it."""


def page_stack(path: Path, pages: TiffPages, said: Axis | None, free: Collection[Axis]) -> PageStack:
    """Find out what the pages of a file are.

    Parameters
    ----------
    path
        Of the file.
    pages
        Its pages.
    said
        What the user says that they are.
    free
        What no part of the file's name tells.

    Raises
    ------
    TiffFaultError
        If the file's metadata contradict its pages.
    RepositoryError
        If its OME-XML is damaged.
    """
    count = len(pages.planes)
    if said is not None:
        return _along(said, count)
    if pages.description.lstrip().startswith("<") and "OME" in pages.description[:4096]:
        return _of_ome(path, pages)
    if pages.imagej:
        return _of_imagej(pages.imagej, count, pages.pixel_size_um)
    if count == 1:
        return _along("z", 1)
    axis = next((axis for axis in AXES if axis in free), None)
    if axis is None:
        raise TiffFaultError(f"has {count} pages, and its name says channel, z and t already")
    return msgspec.structs.replace(_along(axis, count), taken_as=axis)


def _along(axis: Axis, count: int) -> PageStack:
    key = "c" if axis == "channel" else axis
    places = tuple(PagePlace(page, **{key: page}) for page in range(count))
    return PageStack(places=places, **{f"size_{key}": count})  # type: ignore[arg-type]  # a key that the caller has checked


def _of_ome(path: Path, pages: TiffPages) -> PageStack:
    images = list(read_ome(path, pages.description.encode()).images.values())
    if len(images) != 1:
        raise TiffFaultError(f"holds {len(images)} images by its OME-XML; a file that a pattern names holds one")
    (image,) = images
    if image.fault is not None:
        raise TiffFaultError(image.fault)
    own = [plane for plane in image.planes if plane.file in (None, path.name)]
    if any(plane.page >= len(pages.planes) for plane in own):
        raise TiffFaultError(f"has {len(pages.planes)} pages, and its OME-XML {len(own)} planes")
    return PageStack(
        places=tuple(PagePlace(plane.page, plane.t, plane.c, plane.z) for plane in own),
        channels=image.channels,
        size_t=1 + max((plane.t for plane in own), default=0),
        size_c=1 + max((plane.c for plane in own), default=0),
        size_z=1 + max((plane.z for plane in own), default=0),
        pixel_size_um=image.pixel_size_um,
        z_step_um=image.z_step_um,
        t_step_s=image.t_step_s,
        position_um=image.position_um,
        acquired=image.acquired,
    )


def _of_imagej(told: dict[str, Any], count: int, pixel_size_um: float | None) -> PageStack:
    sizes = {key: max(1, int(told.get(name, 1))) for key, name in (("c", "channels"), ("z", "slices"), ("t", "frames"))}
    if sizes["c"] * sizes["z"] * sizes["t"] != count:
        what = f"{sizes['c']} channels, {sizes['z']} slices and {sizes['t']} frames"
        raise TiffFaultError(f"has {count} pages, and ImageJ says {what}")
    # Channels run fastest, then slices, then frames.
    places = []
    for page in range(count):
        rest, c = divmod(page, sizes["c"])
        t, z = divmod(rest, sizes["z"])
        places.append(PagePlace(page, t, c, z))
    unit = str(told.get("unit", "")).replace("\\u00B5", "\u00b5")
    return PageStack(
        places=tuple(places),
        size_t=sizes["t"],
        size_c=sizes["c"],
        size_z=sizes["z"],
        pixel_size_um=pixel_size_um,
        z_step_um=micrometres(real(str(told.get("spacing"))), unit) if unit and sizes["z"] > 1 else None,
        t_step_s=seconds(real(str(told.get("finterval")))) or None,
    )
