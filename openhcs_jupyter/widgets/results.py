"""Pictures of what a run made of one field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.pictures import Layer, Tint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.model import ResultSpec
else:
    np = lazy_loader.load("numpy")

_BELOW: Tint = (200, 200, 200)


def picture_of(run: Run, spec: ResultSpec, well: str, field: int, side: int) -> NDArray[np.uint8]:
    """Draw one result of a field, its slices projected: an image in its channels' colours, labels over their image.

    Parameters
    ----------
    run
        That has made the result.
    spec
        An image or labels of a field or a well.
    well, field
        Where; fields count from 1.
    side
        Longest side of the picture in pixels.

    Returns
    -------
    ndarray of shape (Y, X, 3)
        Of uint8, red first.

    Raises
    ------
    RunError
        If the result is not there.
    """
    if spec.kind == "image":
        return _drawn(run.image(spec.name, well=well, field=field)[0], tints_of(run, spec), side)
    labels = pictures.shrunk(run.labels(spec.name, well=well, field=field)[0, 0].max(axis=0), side, nearest=True)
    below = np.zeros((*labels.shape, 3), np.uint8)
    over = next((image for image in run.plan.results if image.kind == "image" and image.name == spec.over), None)
    if over is not None:
        # Grey, and of those channels only that the labels were made from.
        made_from = [index for index, name in enumerate(over.channels) if name in spec.channels] or [0]
        planes = run.image(over.name, well=well, field=field)[0][made_from]
        drawn = _drawn(planes, [_BELOW] * len(made_from), side)
        below = drawn if drawn.shape == below.shape else below
    return pictures.outlined(below, labels)


def tints_of(run: Run, spec: ResultSpec) -> list[Tint]:
    """Return the colours of an image's channels; a single one is grey."""
    if len(spec.channels) == 1:
        return [pictures.GREY]
    known = {taken.channel.name: taken.channel for taken in run.plan.channels}
    return [pictures.tint_of(known.get(name), index) for index, name in enumerate(spec.channels)]


def _drawn(stacks: NDArray[np.generic], tints: list[Tint], side: int) -> NDArray[np.uint8]:
    layers = []
    for stack, tint in zip(stacks, tints, strict=True):
        plane = pictures.shrunk(stack[0] if len(stack) == 1 else stack.max(axis=0), side)
        layers.append(Layer(plane, *pictures.limits(plane), tint))
    return pictures.colored(layers)
