"""Kernel of what makes planes of fewer pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openhcs_jupyter.functions import geometry
from openhcs_jupyter.functions._cupy._arrays import Array, to_type
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(geometry.bin_pixels, need=8.0)
def bin_pixels(stack: Array, factor: int = 2, method: Literal["mean", "sum", "max", "min"] = "mean") -> Array:
    whole, side = geometry.whole_blocks(stack, factor, method)
    count, height, width = whole.shape
    blocks = whole.reshape(count, height // side, side, width // side, side)
    if method in ("max", "min"):
        return blocks.max(axis=(2, 4)) if method == "max" else blocks.min(axis=(2, 4))
    total = blocks.sum(axis=(2, 4), dtype=np.float64)
    return to_type(total if method == "sum" else total / side**2, stack.dtype)
