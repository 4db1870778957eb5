"""Kernels of the thresholds."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.functions import thresholds
from openhcs_jupyter.functions._checks import check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, blur, host, packages
from openhcs_jupyter.functions._cupy.histogram import histogram
from openhcs_jupyter.functions.histogram import has_histogram
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(thresholds.threshold, need=2.0)
def threshold(
    stack: Array, method: thresholds.Method | float = "otsu", per: Literal["stack", "plane"] = "stack"
) -> Array:
    check_stack(stack, "threshold")
    thresholds.check_threshold(method, per)
    if isinstance(method, int | float):
        return (stack > method).view(np.uint8)
    if per == "stack":
        return (stack > find_threshold(stack, method)).view(np.uint8)
    return packages(stack).xp.stack([plane > find_threshold(plane, method) for plane in stack]).view(np.uint8)


@kernel_for(thresholds.adaptive_threshold, need=9.0)
def adaptive_threshold(
    stack: Array, block_size: int = 51, offset: float = 0.0, method: Literal["gaussian", "mean"] = "gaussian"
) -> Array:
    check_stack(stack, "adaptive_threshold")
    thresholds.check_neighbourhood(block_size, offset, method)
    values, side = as_float(stack), int(block_size)
    if method == "gaussian":
        around = blur(values, (side - 1) / 6)
    else:
        around = packages(stack).ndimage.uniform_filter(values, (0, side, side), mode="nearest")
    return (values > around - offset).astype(np.uint8)


def find_threshold(pixels: Array, method: thresholds.Method) -> float:
    """Find a threshold as `openhcs_jupyter.functions.thresholds.find_threshold` does."""
    if has_histogram(pixels.dtype):
        return thresholds.threshold_of(histogram(pixels), method)
    return thresholds.find_threshold(host(pixels), method)
