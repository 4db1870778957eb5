"""Kernels of the thresholds."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.functions import adaptive, segmentation
from openhcs_jupyter.functions._checks import check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, blur, host, packages
from openhcs_jupyter.functions._cupy.histogram import histogram
from openhcs_jupyter.functions.histogram import has_histogram
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(segmentation.threshold, need=2.0)
def threshold(
    stack: Array, method: segmentation.Method | float = "otsu", per: Literal["stack", "plane"] = "stack"
) -> Array:
    check_stack(stack, "threshold")
    segmentation.check_threshold(method, per)
    if isinstance(method, int | float):
        return (stack > method).view(np.uint8)
    if per == "stack":
        return (stack > _find(stack, method)).view(np.uint8)
    return packages(stack).xp.stack([plane > _find(plane, method) for plane in stack]).view(np.uint8)


@kernel_for(adaptive.adaptive_threshold, need=9.0)
def adaptive_threshold(
    stack: Array, block_size: int = 51, offset: float = 0.0, method: Literal["gaussian", "mean"] = "gaussian"
) -> Array:
    check_stack(stack, "adaptive_threshold")
    adaptive.check_neighbourhood(block_size, offset, method)
    values, side = as_float(stack), int(block_size)
    if method == "gaussian":
        around = blur(values, (side - 1) / 6)
    else:
        around = packages(stack).ndimage.uniform_filter(values, (0, side, side), mode="nearest")
    return (values > around - offset).astype(np.uint8)


def _find(pixels: Array, method: segmentation.Method) -> float:
    if has_histogram(pixels.dtype):
        return segmentation.threshold_of(histogram(pixels), method)
    return segmentation.find_threshold(host(pixels), method)
