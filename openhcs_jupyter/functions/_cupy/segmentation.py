"""Kernels of segmentation: smoothing, thresholds and distances on the GPU; what divides objects runs on a CPU.

Neither cupyx nor cuCIM has a watershed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.functions import cells, nuclei
from openhcs_jupyter.functions._checks import label_planes
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, blur, host, packages, to_type
from openhcs_jupyter.functions._cupy.histogram import histogram
from openhcs_jupyter.functions._cupy.thresholds import find_threshold
from openhcs_jupyter.functions.histogram import has_histogram
from openhcs_jupyter.functions.thresholds import Method
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(nuclei.segment_nuclei, need=12.0)
def segment_nuclei(
    stack: Array,
    sigma: float = 1.0,
    method: Method | float = "otsu",
    min_area: float = 30.0,
    max_area: float | None = None,
    seed_distance: int = 5,
    min_contrast: float = 3.0,
) -> tuple[Array, NDArray[np.int32]]:
    nuclei.check_nuclei(stack, sigma, method, min_area, max_area, seed_distance)
    labels = np.zeros(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        smooth = to_type(blur(as_float(plane[None]), sigma), plane.dtype)[0]
        counts = histogram(smooth) if has_histogram(smooth.dtype) else None
        seen: Any = smooth if counts is not None else host(smooth)
        limit = nuclei.foreground_limit(seen, counts, method, min_contrast)
        if limit is not None:
            mask = np.array(host(smooth > limit)).view(np.uint8)
            nuclei.draw_nuclei(mask, out, min_area, max_area, seed_distance)
    return stack, labels


@kernel_for(cells.segment_cells, need=24.0)
def segment_cells(
    stack: Array,
    nuclei: Array,
    sigma: float = 1.0,
    method: Method | float = "otsu",
    reach: float | None = None,
) -> tuple[Array, NDArray[np.int32]]:
    cells.check_cells(stack, sigma, method, reach)
    ndimage = packages(stack).ndimage
    seeds = label_planes(nuclei, stack.shape, "segment_cells", "nuclei")
    labels = np.zeros(stack.shape, dtype=np.int32)
    for index, (plane, out) in enumerate(zip(stack, labels, strict=True)):
        own = seeds[index if len(seeds) > 1 else 0]
        if not own.any():
            continue
        smooth = blur(as_float(plane[None]), sigma)[0]
        rounded = to_type(smooth, plane.dtype)
        mask = rounded > (float(method) if isinstance(method, int | float) else find_threshold(rounded, method))
        if reach is not None:
            mask = mask & (ndimage.distance_transform_edt(own == 0) <= reach)
        out[...] = cells.divided(host(smooth), host(own), host(mask | (own > 0)))
    return stack, labels
