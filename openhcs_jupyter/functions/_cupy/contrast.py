"""Kernel of the contrast that is evened out."""

from __future__ import annotations

from typing import Literal

from openhcs_jupyter.functions import contrast
from openhcs_jupyter.functions._cupy._arrays import Array, packages
from openhcs_jupyter.functions._cupy.histogram import histogram
from openhcs_jupyter.functions.histogram import has_histogram
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(contrast.equalize_histogram, need=16.0)
def equalize_histogram(stack: Array, per: Literal["stack", "plane"] = "stack") -> Array:
    contrast.check_equalized(stack, per)
    if per == "plane":
        return packages(stack).xp.stack([_equalized(plane) for plane in stack])
    return _equalized(stack)


def _equalized(pixels: Array) -> Array:
    xp = packages(pixels).xp
    if has_histogram(pixels.dtype):
        return xp.asarray(contrast.table_of(histogram(pixels), pixels.dtype))[pixels]
    values, places, counts = xp.unique(pixels.ravel(), return_inverse=True, return_counts=True)
    share = (xp.cumsum(counts) / pixels.size).astype(values.dtype)
    return share[places].reshape(pixels.shape)
