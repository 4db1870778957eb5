"""Kernels of masks and labels: numbering, cutting out, growing."""

from __future__ import annotations

from typing import Any

import numpy as np

from openhcs_jupyter.functions import cells, masks
from openhcs_jupyter.functions._checks import check_range, check_stack, label_planes
from openhcs_jupyter.functions._cupy._arrays import Array, host, packages
from openhcs_jupyter.pipeline.contracts import kernel_for

_CORNERS = np.ones((3, 3), dtype=bool)
"""Pixels that meet at a corner hold together."""


@kernel_for(masks.label_objects, need=20.0)
def label_objects(
    stack: Array, min_area: float = 0.0, max_area: float | None = None, fill: bool = False
) -> tuple[Array, Array]:
    check_stack(stack, "label_objects")
    masks.check_areas("label_objects", min_area, max_area)
    xp, ndimage = packages(stack)
    labels = xp.empty(stack.shape, dtype=np.int32)
    for plane, out in zip(stack, labels, strict=True):
        mask = plane != 0
        parts, count = components(ndimage.binary_fill_holes(mask) if fill else mask)
        out[...] = _numbered(parts, count, min_area, max_area)
    return stack, labels


@kernel_for(masks.mask_with, need=4.0)
def mask_with(stack: Array, labels: Array, outside: float = 0.0, invert: bool = False) -> Array:
    kept = masks.kept_pixels(stack, labels, outside, invert)
    return packages(stack).xp.where(kept, stack, stack.dtype.type(outside))


@kernel_for(cells.cytoplasm, need=6.0)
def cytoplasm(stack: Array, cells: Array, nuclei: Array) -> Array:
    whole, inner = (
        label_planes(labels, (1, *stack.shape[1:]), "cytoplasm", name)[0]
        for labels, name in ((cells, "cells"), (nuclei, "nuclei"))
    )
    return packages(whole).xp.where(inner == 0, whole, np.int32(0))


@kernel_for(cells.grow_labels, need=24.0)
def grow_labels(stack: Array, labels: Array, distance: float = 5.0) -> Array:
    check_range("grow_labels", "distance", distance, 0)
    plane = label_planes(labels, (1, *stack.shape[1:]), "grow_labels", "labels")[0]
    xp, ndimage = packages(plane)
    outside = plane == 0
    if outside.all() or not outside.any():
        return plane.copy()
    away, nearest = ndimage.distance_transform_edt(outside, return_indices=True)
    return xp.where(away <= distance, plane[nearest[0], nearest[1]], np.int32(0))


def components(mask: Array) -> tuple[Array, int]:
    """Give a number to all that holds together in a plane; also return how many there are."""
    parts, count = packages(mask).ndimage.label(mask, structure=_CORNERS)
    return parts, int(count)


def _numbered(parts: Array, count: int, min_area: float, max_area: float | None) -> Array:
    """Drop labels by area and number the others from 1 in raster order."""
    xp = packages(parts).xp
    found: list[Any] = list(map(host, xp.unique(parts.ravel(), return_index=True, return_counts=True)))
    values, first, area = found
    keep = (values > 0) & (area >= max(min_area, 1))
    if max_area is not None:
        keep &= area <= max_area
    new = np.zeros(count + 1, dtype=np.int32)
    new[values[keep][np.argsort(first[keep])]] = np.arange(1, int(keep.sum()) + 1, dtype=np.int32)
    return xp.asarray(new)[parts]
