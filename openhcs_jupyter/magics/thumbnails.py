"""Small pictures of one field's results, for previews."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import lazy_loader

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.magics import render
from openhcs_jupyter.model import Channel, ResultSpec

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from openhcs_jupyter.engine import Run
else:
    cv2 = lazy_loader.load("cv2")
    np = lazy_loader.load("numpy")

_SIDE = 300
_SHOWN = 8
_OUTLINE = (255, 150, 0)
# Told apart with every kind of colour vision; for channels that the plate gives no colour.
_COLORS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))


def thumbnails(run: Run, well: str, field: int) -> str:
    """Draw the images and labels of one field side by side, as HTML; empty if the run makes none.

    Parameters
    ----------
    run
        That has ended.
    well
        Name of the well.
    field
        Number of the field, counted from 1.
    """
    figures: list[str] = []
    for spec in run.plan.results:
        if spec.kind not in ("image", "labels") or spec.scope == "plate" or len(figures) == _SHOWN:
            continue
        try:
            picture = _picture(run, spec, well, field)
        except OpenHCSError:
            # The field failed; the card says why.
            continue
        figures.append(_figure(picture, f"{spec.name}, {spec.kind}"))
    if not figures:
        return ""
    caption = render.faint(f"{well} field {field}")
    return (
        f'<div style="margin-top:6px">{caption}</div><div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'
    )


def _picture(run: Run, spec: ResultSpec, well: str, field: int) -> NDArray[np.uint8]:
    """Return a picture ``(Y, X, 3)`` of uint8."""
    if spec.kind == "image":
        return _colored(_small(run.image(spec.name, well=well, field=field)[0].max(axis=1)), _tints(run, spec))
    labels = _small(run.labels(spec.name, well=well, field=field)[0].max(axis=1), nearest=True)[0]
    over = next((image for image in run.plan.results if image.kind == "image" and image.name == spec.over), None)
    below = np.zeros((*labels.shape, 3), np.uint8)
    if over is not None:
        planes = _small(run.image(over.name, well=well, field=field)[0].max(axis=1))
        # Grey, and of those channels only that the labels were made from.
        made_from = [index for index, name in enumerate(over.channels) if name in spec.channels] or [0]
        if planes.shape[1:] == labels.shape:
            below = _colored(planes[made_from], [(200, 200, 200)] * len(made_from))
    return _outlined(below, labels)


def _small(planes: NDArray[np.generic], *, nearest: bool = False) -> NDArray[np.float32]:
    """Shrink planes ``(C, Y, X)`` so that they fit the page."""
    height, width = planes.shape[1:]
    scale = min(1.0, 2 * _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return np.stack([cv2.resize(plane.astype(np.float32), size, interpolation=how) for plane in planes])


def _colored(planes: NDArray[np.float32], tints: list[tuple[int, int, int]]) -> NDArray[np.uint8]:
    picture = np.zeros((*planes.shape[1:], 3), np.float32)
    for plane, tint in zip(planes, tints, strict=True):
        finite = plane[np.isfinite(plane)]
        low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0.0, 1.0)
        shade = np.clip((plane - low) / max(high - low, 1e-9), 0, 1)
        picture += np.nan_to_num(shade)[..., None] * np.asarray(tint, np.float32)
    clipped: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return clipped


def _outlined(below: NDArray[np.uint8], labels: NDArray[np.float32]) -> NDArray[np.uint8]:
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
    picture = below.copy()
    picture[edge & (cv2.dilate(labels, kernel) > 0)] = _OUTLINE
    return picture


def _tints(run: Run, spec: ResultSpec) -> list[tuple[int, int, int]]:
    if len(spec.channels) == 1:
        return [(255, 255, 255)]
    known = {taken.channel.name: taken.channel for taken in run.plan.channels}
    return [_tint(known.get(name), index) for index, name in enumerate(spec.channels)]


def _tint(channel: Channel | None, index: int) -> tuple[int, int, int]:
    if channel is not None and channel.color:
        red, green, blue = (int(channel.color[at : at + 2], 16) for at in (0, 2, 4))
        return red, green, blue
    return _COLORS[index % len(_COLORS)]


def _figure(picture: NDArray[np.uint8], caption: str) -> str:
    good, png = cv2.imencode(".png", picture[..., ::-1])
    assert good
    source = base64.b64encode(png.tobytes()).decode()
    name = render.escape(caption)
    style = f"max-width:{_SIDE}px;display:block"
    image = f'<img src="data:image/png;base64,{source}" alt="{name}" style="{style}">'
    return f'<figure style="margin:2px 10px 6px 0">{image}<figcaption>{name}</figcaption></figure>'
