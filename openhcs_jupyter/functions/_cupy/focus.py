"""Kernel of the choice of the slice in focus."""

from __future__ import annotations

import numpy as np

from openhcs_jupyter.functions import focus
from openhcs_jupyter.functions._checks import check_range, check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, blur, host, packages
from openhcs_jupyter.pipeline.contracts import kernel_for

_LAPLACIAN = np.array([[[0, 1, 0], [1, -4, 1], [0, 1, 0]]])


@kernel_for(focus.focus_select, need=9.0)
def focus_select(stack: Array, sigma: float = 1.0) -> Array:
    check_stack(stack, "focus_select")
    check_range("focus_select", "sigma", sigma, 0, 1000)
    xp, ndimage = packages(stack)
    smooth = blur(as_float(stack), sigma)
    detail = ndimage.convolve(smooth, xp.asarray(_LAPLACIAN.astype(smooth.dtype)), mode="nearest")
    best = int(np.argmax(host(detail.astype(np.float64).var(axis=(1, 2)))))
    return stack[best : best + 1].copy()
