"""Pictures of planes: contrast, colour, outlines of labels, JPEG and PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import lazy_loader

from openhcs_jupyter.model import Channel

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray
else:
    cv2 = lazy_loader.load("cv2")
    np = lazy_loader.load("numpy")

Tint = tuple[int, int, int]
GREY: Tint = (255, 255, 255)
OUTLINE: Tint = (255, 150, 0)
"""Over grey."""
OUTLINE_OF_COLORS: Tint = (255, 0, 160)
"""Over the colours of channels."""
# Told apart with every kind of colour vision; for channels that the plate gives no colour.
_COLORS: tuple[Tint, ...] = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))
_PERCENTILES = (1, 99.8)
_SAMPLED = 256
_JPEG_QUALITY = 85


class Layer(NamedTuple):
    """One plane of a picture."""

    plane: NDArray[np.generic]
    """``(Y, X)``"""
    low: float
    """What is black."""
    high: float
    """What is brightest."""
    tint: Tint


def limits(plane: NDArray[np.generic]) -> tuple[float, float]:
    """Return contrast limits of a plane ``(Y, X)``: percentiles of a sample of its pixels."""
    step = max(1, min(plane.shape) // _SAMPLED)
    sample = plane[::step, ::step].astype(np.float32)
    finite = sample[np.isfinite(sample)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, _PERCENTILES))
    return low, high if high > low else low + 1.0


def shrunk(plane: NDArray[np.generic], side: int, *, nearest: bool = False) -> NDArray[np.generic]:
    """Shrink a plane ``(Y, X)`` so that no side is longer than `side` pixels; `nearest` keeps labels what they are."""
    height, width = plane.shape
    times = max(height, width) / side
    # OpenCV shrinks by whole numbers several times faster.
    scale = 1.0 if times <= 1 else 1 / times if times < 2 else 1 / math.ceil(times)
    if nearest or plane.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        plane = plane.astype(np.float32)
    if scale == 1.0:
        return plane
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    small: NDArray[np.generic] = cv2.resize(np.ascontiguousarray(plane), size, interpolation=how)
    return small


def colored(layers: Sequence[Layer]) -> NDArray[np.uint8]:
    """Add layers of one size up to a picture ``(Y, X, 3)``, red first."""
    shades = []
    for layer in layers:
        scale = 1 / max(layer.high - layer.low, 1e-9)
        shade = (layer.plane.astype(np.float32) - np.float32(layer.low)) * np.float32(scale)
        if layer.plane.dtype.kind == "f":
            np.nan_to_num(shade, copy=False)
        np.clip(shade, 0, 1, out=shade)
        shades.append(shade)
    mixing = np.array([layer.tint for layer in layers], np.float32).T
    mixed = cv2.transform(cv2.merge(shades) if len(shades) > 1 else shades[0], mixing)
    picture: NDArray[np.uint8] = cv2.convertScaleAbs(mixed)  # which holds to 255
    return picture


def grown(picture: NDArray[np.generic], side: int, *, nearest: bool = False) -> NDArray[np.generic]:
    """Enlarge a picture or labels so that the longest side has `side` pixels; larger ones are left alone."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale <= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    large: NDArray[np.generic] = cv2.resize(picture, size, interpolation=how)
    return large


def outlined(picture: NDArray[np.uint8], labels: NDArray[np.generic], tint: Tint = OUTLINE) -> NDArray[np.uint8]:
    """Draw the outlines of labels ``(Y, X)`` over a picture of the same size."""
    values = labels.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    wider = cv2.dilate(values, kernel)
    edge = (wider != cv2.erode(values, kernel)) & (wider > 0)
    drawn = picture.copy()
    drawn[edge] = tint
    return drawn


def filled(picture: NDArray[np.uint8], labels: NDArray[np.generic], share: float = 0.45) -> NDArray[np.uint8]:
    """Lay the areas of labels ``(Y, X)`` over a picture, each in a colour of its own."""
    numbers = labels.astype(np.int64)
    hue = ((numbers * 47) % 180).astype(np.uint8)
    hsv = np.stack([hue, np.full_like(hue, 190), np.full_like(hue, 235)], axis=-1)
    tints = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    drawn = picture.copy()
    inside = numbers > 0
    drawn[inside] = ((1 - share) * picture[inside] + share * tints[inside]).astype(np.uint8)
    return drawn


def encoded(picture: NDArray[np.uint8], form: Literal["jpg", "png"] = "jpg") -> bytes:
    """Return a picture ``(Y, X, 3)`` or ``(Y, X, 4)``, red first, as a file's bytes."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if form == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    code = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
    good, data = cv2.imencode(f".{form}", cv2.cvtColor(picture, code), options)
    assert good
    return bytes(data.tobytes())


def tint_of(channel: Channel | None, index: int) -> Tint:
    """Return the display colour of a channel; `index` chooses one where the plate gives none."""
    if channel is not None and channel.color:
        red, green, blue = (int(channel.color[at : at + 2], 16) for at in (0, 2, 4))
        return red, green, blue
    return _COLORS[index % len(_COLORS)]


def color_table(name: str) -> bytes:
    """Return a colour map, one of `COLOR_MAPS`, as 256 times red, green, blue."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    colors = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{name.upper()}"))
    return bytes(colors[:, 0, ::-1].tobytes())


COLOR_MAPS = ("viridis", "cividis", "magma", "inferno", "twilight")
"""Evenly growing in brightness but for the last, which is for angles."""
