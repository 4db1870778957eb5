"""Kernels of the normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import normalize
from openhcs_jupyter.functions._checks import check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, host, packages, to_type
from openhcs_jupyter.functions._cupy.histogram import histogram
from openhcs_jupyter.functions.histogram import has_histogram, percentiles
from openhcs_jupyter.pipeline.contracts import kernel_for

if TYPE_CHECKING:
    import pandas as pd


@kernel_for(normalize.percentile_normalize, need=7.0)
def percentile_normalize(
    stack: Array, low: float = 1.0, high: float = 99.8, per: Literal["stack", "plane"] = "stack"
) -> Array:
    check_stack(stack, "percentile_normalize")
    normalize.check_percentages("percentile_normalize", low, high)
    if per == "stack":
        return _stretch(stack, low, high)
    if per == "plane":
        return packages(stack).xp.concatenate([_stretch(plane[None], low, high) for plane in stack])
    raise UsageError(f"percentile_normalize: per is {per!r}", 'It is "stack" or "plane".')


@kernel_for(normalize.normalize_with, need=7.0)
def normalize_with(stack: Array, limits: pd.DataFrame) -> Array:
    check_stack(stack, "normalize_with")
    return _stretch_between(stack, *normalize.limits_of(limits))


def _stretch(stack: Array, low: float, high: float) -> Array:
    if has_histogram(stack.dtype):
        bottom, top = percentiles(histogram(stack), (low, high))
    else:
        xp = packages(stack).xp
        bottom, top = host(xp.percentile(stack, xp.asarray([low, high])))
    return _stretch_between(stack, float(bottom), float(top))


def _stretch_between(stack: Array, bottom: float, top: float) -> Array:
    xp = packages(stack).xp
    if top - bottom <= 0:
        return xp.zeros(stack.shape, dtype=np.uint16)
    # Large values with a small spread would lose it in float32.
    values = as_float(stack) if has_histogram(stack.dtype) else stack.astype(np.float64)
    scaled = (values - values.dtype.type(bottom)) * values.dtype.type(normalize.TOP / (top - bottom))
    return to_type(xp.clip(scaled, 0, normalize.TOP), np.dtype(np.uint16))
