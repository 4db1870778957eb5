"""Standard functions for steps: from normalisation and filters to segmentation, measurement and plate statistics."""

from __future__ import annotations

from openhcs_jupyter.functions import _cupy as _cupy
from openhcs_jupyter.functions.background import subtract_background
from openhcs_jupyter.functions.cells import cytoplasm, grow_labels, segment_cells
from openhcs_jupyter.functions.channels import ratio, subtract_channel
from openhcs_jupyter.functions.colocalisation import colocalisation
from openhcs_jupyter.functions.composites import composite
from openhcs_jupyter.functions.contrast import equalize_histogram
from openhcs_jupyter.functions.filters import gaussian_blur, median, sharpen, top_hat
from openhcs_jupyter.functions.focus import focus_select
from openhcs_jupyter.functions.geometry import bin_pixels, crop
from openhcs_jupyter.functions.illumination import IlluminationEstimate, correct_illumination
from openhcs_jupyter.functions.masks import label_objects, mask_with
from openhcs_jupyter.functions.measurement import count_objects, measure_objects
from openhcs_jupyter.functions.models import segment_cellpose, segment_stardist
from openhcs_jupyter.functions.neurites import measure_neurites, trace_neurites
from openhcs_jupyter.functions.normalize import PlatePercentiles, normalize_with, percentile_normalize
from openhcs_jupyter.functions.nuclei import segment_nuclei
from openhcs_jupyter.functions.plate import robust_z_scores, z_prime
from openhcs_jupyter.functions.positions import field_positions
from openhcs_jupyter.functions.projections import (
    max_projection,
    mean_projection,
    min_projection,
    side_projection,
    sum_projection,
)
from openhcs_jupyter.functions.registration import register_channels, register_frames
from openhcs_jupyter.functions.spots import find_spots
from openhcs_jupyter.functions.stitching import stitch
from openhcs_jupyter.functions.tables import well_medians, well_summary
from openhcs_jupyter.functions.thresholds import adaptive_threshold, threshold
from openhcs_jupyter.functions.tracking import measure_tracks, track_objects

__all__ = [
    "IlluminationEstimate",
    "PlatePercentiles",
    "adaptive_threshold",
    "bin_pixels",
    "colocalisation",
    "composite",
    "correct_illumination",
    "count_objects",
    "crop",
    "cytoplasm",
    "equalize_histogram",
    "field_positions",
    "find_spots",
    "focus_select",
    "gaussian_blur",
    "grow_labels",
    "label_objects",
    "mask_with",
    "max_projection",
    "mean_projection",
    "measure_neurites",
    "measure_objects",
    "measure_tracks",
    "median",
    "min_projection",
    "normalize_with",
    "percentile_normalize",
    "ratio",
    "register_channels",
    "register_frames",
    "robust_z_scores",
    "segment_cellpose",
    "segment_cells",
    "segment_nuclei",
    "segment_stardist",
    "sharpen",
    "side_projection",
    "stitch",
    "subtract_background",
    "subtract_channel",
    "sum_projection",
    "threshold",
    "top_hat",
    "trace_neurites",
    "track_objects",
    "well_medians",
    "well_summary",
    "z_prime",
]
