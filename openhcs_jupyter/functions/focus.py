"""The slice of a stack that is in focus."""

from __future__ import annotations

import numpy as np

from openhcs_jupyter.functions._checks import Stack, check_range, check_stack
from openhcs_jupyter.functions.filters import blur_plane
from openhcs_jupyter.pipeline.contracts import image


@image(depth="one", dtype="same", need=4.0)
def focus_select(stack: Stack, sigma: float = 1.0) -> Stack:
    """Take the plane with the most detail: the one whose Laplacian has the greatest variance.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Any integer or floating-point type.
    sigma
        Standard deviation in pixels of a gaussian that takes the noise out of what is compared; 0 leaves it out.

    Returns
    -------
    ndarray of shape (1, Y, X), type of the stack
        The plane as it came; of equal planes the first.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, or `sigma` is negative.

    Notes
    -----
    The measure is LAPV of Pertuz et al. (2013), with the four neighbours of `scipy.ndimage.laplace` and the border
    repeated.
    """
    check_stack(stack, "focus_select")
    check_range("focus_select", "sigma", sigma, 0, 1000)
    best = int(np.argmax([_detail(plane, sigma) for plane in stack]))
    return stack[best : best + 1].copy()


def _detail(plane: Stack, sigma: float) -> float:
    import cv2

    values = np.ascontiguousarray(blur_plane(plane, sigma))
    laplacian = cv2.Laplacian(values, -1, ksize=1, borderType=cv2.BORDER_REPLICATE)
    _, spread = cv2.meanStdDev(laplacian)
    return float(spread[0, 0]) ** 2
