"""Kernels of the standard functions for arrays of a GPU: one function, one docstring, here its work with CuPy.

Each takes its packages from the array that it is given: CuPy and cupyx for arrays of a GPU, NumPy and SciPy for others,
which have the same functions. So the same lines run, and are tested, on a machine without a GPU.
"""

from __future__ import annotations

from openhcs_jupyter.functions._cupy import (
    background,
    channels,
    colocalisation,
    contrast,
    filters,
    focus,
    geometry,
    illumination,
    labels,
    measurement,
    normalize,
    registration,
    segmentation,
    spots,
    stitching,
    thresholds,
)

__all__ = [
    "background",
    "channels",
    "colocalisation",
    "contrast",
    "filters",
    "focus",
    "geometry",
    "illumination",
    "labels",
    "measurement",
    "normalize",
    "registration",
    "segmentation",
    "spots",
    "stitching",
    "thresholds",
]
