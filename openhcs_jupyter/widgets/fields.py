"""Draws fields: channels with their contrast, slices, labels as outlines or areas; keeps what it has read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import lazy_loader

from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.pictures import Layer
from openhcs_jupyter.widgets.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy_loader.load("numpy")

_KEPT = 64


class Look(NamedTuple):
    """How fields are shown."""

    image: str
    channels: tuple[str, ...]
    z: int | None
    """None: the brightest of all slices."""
    labels: str | None
    areas: bool
    """Labels are shown as areas rather than outlines."""


class Place(NamedTuple):
    """One field of one source."""

    source: Source
    well: str
    field: int


class Painter:
    """Draws fields, and remembers the planes that it has shrunk."""

    def __init__(self) -> None:
        self._planes: OrderedDict[object, tuple[NDArray[np.generic], int]] = OrderedDict()

    def plane(self, place: Place, look: Look, channel: str, side: int) -> tuple[NDArray[np.generic], int]:
        """Return one channel as a plane ``(Y, X)`` of at most `side` pixels, and how many slices there are.

        Raises
        ------
        OpenHCSError
            If the field has no such image.
        """
        source, well, field = place
        key = (id(source), well, field, look.image, look.z, channel, side)
        if key not in self._planes:
            stack = source.planes(look.image, well, field, channel)
            self._planes[key] = pictures.shrunk(_flat(stack, look.z), side), len(stack)
            while len(self._planes) > _KEPT:
                self._planes.popitem(last=False)
        return self._planes[key]

    def draw(
        self, place: Place, look: Look, contrast: Mapping[str, tuple[float, float]], side: int
    ) -> NDArray[np.uint8]:
        """Draw a field.

        Parameters
        ----------
        place, look
            What.
        contrast
            For each channel what is black and what is brightest.
        side
            Longest side in pixels.

        Returns
        -------
        ndarray of shape (Y, X, 3)
            Of uint8, red first.

        Raises
        ------
        OpenHCSError
            If the field has no such image.
        """
        shown = next(image for image in place.source.images if image.name == look.image)
        layers = []
        for name, tint in zip(shown.channels, shown.tints, strict=True):
            if name in look.channels:
                plane, _ = self.plane(place, look, name, side)
                layers.append(Layer(plane, *contrast[name], tint if len(look.channels) > 1 else pictures.GREY))
        if not layers:
            plane, _ = self.plane(place, look, shown.channels[0], side)
            layers = [Layer(np.zeros_like(plane), 0, 1, pictures.GREY)]
        picture = cast("NDArray[np.uint8]", pictures.grown(pictures.colored(layers), side))
        if look.labels is None or look.labels not in place.source.labels:
            return picture
        labels = _flat(place.source.label_planes(look.labels, place.well, place.field), look.z)
        fitting = pictures.grown(pictures.shrunk(labels, side, nearest=True), side, nearest=True)
        if fitting.shape != picture.shape[:2]:
            return picture
        if look.areas:
            return pictures.filled(picture, fitting)
        tint = pictures.OUTLINE if len(layers) == 1 else pictures.OUTLINE_OF_COLORS
        return pictures.outlined(picture, fitting, tint)


def _flat(stack: NDArray[np.generic], z: int | None) -> NDArray[np.generic]:
    if len(stack) == 1:
        return stack[0]  # type: ignore[no-any-return]  # the library is not typed
    return stack.max(axis=0) if z is None or z >= len(stack) else stack[z]  # type: ignore[no-any-return]  # the library is not typed
