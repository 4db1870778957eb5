"""Standard functions for steps: normalisation, filters, projections, composites, segmentation, measurement, tables."""

from __future__ import annotations

from openhcs_jupyter.functions.composites import composite
from openhcs_jupyter.functions.filters import gaussian_blur, median, top_hat
from openhcs_jupyter.functions.measurement import measure_objects
from openhcs_jupyter.functions.normalize import percentile_normalize
from openhcs_jupyter.functions.projections import max_projection, mean_projection, min_projection, sum_projection
from openhcs_jupyter.functions.segmentation import segment_nuclei, threshold
from openhcs_jupyter.functions.tables import well_medians

__all__ = [
    "composite",
    "gaussian_blur",
    "max_projection",
    "mean_projection",
    "measure_objects",
    "median",
    "min_projection",
    "percentile_normalize",
    "segment_nuclei",
    "sum_projection",
    "threshold",
    "top_hat",
    "well_medians",
]
