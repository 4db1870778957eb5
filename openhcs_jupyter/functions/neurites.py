"""Neurites: thin lines that leave cells, traced to branches and their lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, check_range, check_stack, label_planes
from openhcs_jupyter.functions._groups import group_rows
from openhcs_jupyter.pipeline.contracts import Context, image, table

if TYPE_CHECKING:
    import pandas as pd

_MAD = 1.4826
"""Times the median absolute deviation: the standard deviation of what is normally distributed."""
_STRAIGHT, _DIAGONAL = 0.948, 1.340
"""Lengths of a step, for which the mean over lines of all directions is right (Kulpa, 1977)."""
_PRUNED = 5
"""How often short side branches are looked for: without one, another may be at the end of a line."""
_PLACE = ("plate", "well", "field")


@image(depth="same", dtype="same", need=40.0)
def trace_neurites(
    stack: Stack,
    cells: NDArray[Any] | None = None,
    radius: float = 1.5,
    min_contrast: float = 8.0,
    min_length: float = 15.0,
    min_branch: float = 6.0,
    context: Context | None = None,
) -> tuple[Stack, NDArray[np.int32], pd.DataFrame]:
    """Trace neurites, or other thin bright lines, to branches of a skeleton.

    Name both outputs: ``Step(trace_neurites, channel="GFP", inputs={"cells": "cells"}, outputs=(Labels("neurites"),
    Table("branches")))``.

    Parameters
    ----------
    stack : ndarray of shape (N, Y, X)
        Lines brighter than their surroundings; any integer or floating-point type.
    cells : ndarray of shape (N, Y, X), (1, Y, X) or (Y, X), optional
        Labels of cell bodies, 0 is background. Nothing is traced on them, and neurites belong to the cell that they
        reach. Left out, nothing belongs to a cell.
    radius
        Half the width of the lines in pixels.
    min_contrast
        How many times the noise a line must stand out; what continues it, half as many.
    min_length
        What hangs together and is shorter than this, in pixels, is left out.
    min_branch
        Side branches that are shorter than this, in pixels, are left out.
    context
        The pixel size.

    Returns
    -------
    stack : ndarray of shape (N, Y, X)
        The stack as it came.
    labels : ndarray of shape (N, Y, X), int32
        Lines one pixel wide, each branch with its own number from 1; 0 is background.
    branches : DataFrame
        One row a branch: ``label``; ``tree``: what hangs together has one number; ``cell``: the label of its cell, 0 of
        none; ``length`` in pixels and, where the pixel size is known, ``length_um``; ``ends``: how many of its ends are
        free, 0 to 2; ``y_start``, ``x_start``, ``y_end``, ``x_end``; ``mean``: intensity along it. Of several planes
        also ``plane``, from 1. Without neurites the same columns and no rows.

    Raises
    ------
    UsageError
        If a pixel is NaN or infinite, the cells do not fit the stack, or a parameter does not fit.

    Notes
    -----
    Lines are where the second derivative across is most negative: the lesser eigenvalue of the Hessian of a gaussian
    with `radius` for its standard deviation, as in `skimage.filters.sato`, or the negative Laplacian where that is
    less, so that the rims of bright cells do not count. What is above the contrast, with what joins it above half of
    that, is thinned by `skimage.morphology.skeletonize`. The noise is 1.4826 times the median absolute deviation of the
    filtered plane. Steps count 0.948 and 1.340 pixels, which is right in the mean over all directions. A branch that
    comes from a cell is measured to its edge; one belongs to the cell that is nearest along the lines.
    """
    import pandas as pd

    check_stack(stack, "trace_neurites")
    for name, value, least in (
        ("radius", radius, 0.5),
        ("min_contrast", min_contrast, 0),
        ("min_length", min_length, 0),
        ("min_branch", min_branch, 0),
    ):
        check_range("trace_neurites", name, value, least, 1e6)
    bodies = np.zeros((1, *stack.shape[1:]), np.int32)
    if cells is not None:
        bodies = label_planes(cells, stack.shape, "trace_neurites", "cells")
    labels = np.zeros(stack.shape, dtype=np.int32)
    pixel = context.pixel_size_um if context else None
    tables = []
    for index, (plane, out) in enumerate(zip(stack, labels, strict=True)):
        body = np.ascontiguousarray(bodies[index if len(bodies) > 1 else 0])
        skeleton = _skeleton(plane, body, radius, min_contrast, min_branch)
        found = _branches(plane, skeleton, body, radius, min_length, out, pixel)
        if len(stack) > 1:
            found.insert(0, "plane", index + 1)
        tables.append(found)
    return stack, labels, tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


@table(over="field")
def measure_neurites(branches: pd.DataFrame) -> pd.DataFrame:
    """Add up the neurites of each cell.

    Parameters
    ----------
    branches
        One row a branch, as `trace_neurites` makes it.

    Returns
    -------
    DataFrame
        One row a cell that has neurites, 0 for those that belong to none: ``plate``, ``well``, ``field`` as they came;
        ``cell``; ``trees``, ``branches`` and free ``ends``: how many; ``length`` of all in pixels, ``longest`` branch;
        and ``length_um``, ``longest_um`` where the pixel size is known.

    Raises
    ------
    UsageError
        If a column is missing.
    """
    missing = [name for name in ("cell", "tree", "length", "ends") if name not in branches.columns]
    if missing:
        raise UsageError(
            f"measure_neurites: the table has no column {missing[0]!r}", "trace_neurites makes the table it takes."
        )
    keys = [name for name in _PLACE if name in branches.columns] + ["cell"]
    import pandas as pd

    groups = group_rows(branches, keys)
    trees = group_rows(branches, [*keys, "tree"])
    columns: dict[str, NDArray[Any]] = {
        "trees": np.bincount(groups.of[trees.first], minlength=len(groups.first)),
        "branches": groups.sizes,
        "ends": groups.sums(branches["ends"].to_numpy()).astype(np.int64),
    }
    for name, longest in (("length", "longest"), ("length_um", "longest_um")):
        if name in branches.columns:
            lengths = branches[name].to_numpy(dtype=np.float64)
            most = np.zeros(len(groups.first))
            np.maximum.at(most, groups.of, lengths)
            columns |= {name: groups.sums(lengths), longest: most}
    places = {name: branches[name].array[groups.first] for name in keys}
    return pd.DataFrame(places | columns)


def ridges(plane: Stack, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how much each pixel looks like the middle of a bright line, and like that of anything bright.

    Both are above 0 there, times `sigma` squared: the lesser eigenvalue of the Hessian, and its trace, with their signs
    turned. Beside something bright and round the first is above 0 as well, the second is not.
    """
    import cv2

    values = np.ascontiguousarray(plane, dtype=np.float32)
    reach = int(4 * sigma + 0.5)
    places = np.arange(-reach, reach + 1, dtype=np.float64)
    gaussian = np.exp(-0.5 * (places / sigma) ** 2)
    gaussian /= gaussian.sum()
    first = -places / sigma * gaussian
    second = ((places / sigma) ** 2 - 1) * gaussian

    def along(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
        filtered: NDArray[np.float32] = cv2.sepFilter2D(values, -1, x, y, borderType=cv2.BORDER_REPLICATE)
        return filtered

    xx, yy, xy = along(second, gaussian), along(gaussian, second), along(first, first)
    spread = cv2.magnitude((xx - yy) * np.float32(0.5), xy)
    bright: NDArray[np.float32] = -(xx + yy)
    lines: NDArray[np.float32] = spread + bright * np.float32(0.5)
    return lines, bright


def _skeleton(
    plane: Stack, body: NDArray[np.int32], radius: float, min_contrast: float, min_branch: float
) -> NDArray[np.uint8]:
    """Return the middle lines of what looks like neurites, without short side branches."""
    import cv2
    from skimage.morphology import skeletonize

    from openhcs_jupyter.functions import _skeleton as kernels

    response = np.minimum(*ridges(plane, radius))
    outside = body == 0
    background = response[outside]
    if not background.size:
        return np.zeros(plane.shape, dtype=np.uint8)
    middle = float(np.median(background))
    noise = _MAD * float(np.median(np.abs(background - middle)))
    weak = ((response - middle > 0.5 * min_contrast * noise) & outside).view(np.uint8)
    count, parts = cv2.connectedComponents(weak, connectivity=8, ltype=cv2.CV_32S)
    strong = np.zeros(count, dtype=bool)
    # Where nothing but rounding is left, nothing stands out.
    floor = 1e-5 * float(max(abs(float(plane.min())), abs(float(plane.max()))))
    strong[parts[(response - middle > max(min_contrast * noise, floor)) & outside]] = True
    strong[0] = False
    skeleton = _bare(skeletonize(strong[parts]))
    away, reach = _away(body), _reach(radius)
    for _ in range(_PRUNED):
        labels, found, _ = kernels.branches_of(skeleton, away, reach)
        side = (found[:, 3] > 0) & (found[:, 3] < found[:, 2])
        short = (side | (found[:, 10] > 0)) & (_lengths(found) < min_branch)
        short[0] = False
        if not short.any():
            break
        skeleton = _bare(skeletonize(skeleton.view(bool) & ~short[labels]))
    return skeleton


def _bare(skeleton: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a skeleton without the plane's outermost pixels, beside which nothing can be looked at."""
    bare = np.zeros(skeleton.shape, dtype=np.uint8)
    bare[1:-1, 1:-1] = skeleton[1:-1, 1:-1]
    return bare


def _away(body: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return how far each pixel is from the nearest cell."""
    import cv2

    outside = (body == 0).view(np.uint8)
    if outside.all():
        return np.full(body.shape, np.inf, dtype=np.float32)
    distance: NDArray[np.float32] = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance


def _reach(radius: float) -> float:
    # So far the light of a cell hides the line that leaves it.
    return 4 * radius + 2


def _branches(
    plane: Stack,
    skeleton: NDArray[np.uint8],
    body: NDArray[np.int32],
    radius: float,
    min_length: float,
    out: NDArray[np.int32],
    pixel_um: float | None,
) -> pd.DataFrame:
    """Measure the branches of a skeleton and number them in `out`."""
    import cv2
    import pandas as pd

    from openhcs_jupyter.functions import _skeleton as kernels

    away, reach = _away(body), _reach(radius)
    labels, found, gaps = kernels.branches_of(skeleton, away, reach)
    count = len(found)
    lengths = _lengths(found) + gaps
    trees = cv2.connectedComponents(skeleton, connectivity=8, ltype=cv2.CV_32S)[1]
    at = _first_pixels(labels, count)
    tree = trees.ravel()[at]
    tree[0] = 0
    whole = np.bincount(tree, weights=lengths, minlength=int(trees.max()) + 1)
    keep = np.flatnonzero((whole[tree] >= min_length) & (found[:, 8] > 0))
    number = np.zeros(count, dtype=np.int32)
    number[keep] = np.arange(1, len(keep) + 1)
    owner = _owners(skeleton, body, away <= reach)
    on = labels > 0
    brightness = np.bincount(labels[on], weights=plane[on].astype(np.float64), minlength=count)
    cell = _nearest_owner(labels, owner, count)
    out[...] = number[labels]
    kept = skeleton & (whole[trees] >= min_length).view(np.uint8)
    kernels.number_junctions(kept, out)
    columns: dict[str, Any] = {
        "label": number[keep].astype(np.int64),
        "tree": np.unique(tree[keep], return_inverse=True)[1].astype(np.int64) + 1,
        "cell": cell[keep],
        "length": lengths[keep],
    }
    if pixel_um is not None:
        columns["length_um"] = lengths[keep] * pixel_um
    columns["ends"] = found[keep, 3]
    columns |= {name: found[keep, 4 + i] for i, name in enumerate(("y_start", "x_start", "y_end", "x_end"))}
    columns["mean"] = brightness[keep] / found[keep, 8]
    return pd.DataFrame(columns)


def _lengths(found: NDArray[np.int64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = (_STRAIGHT * found[:, 0] + _DIAGONAL * found[:, 1]) / 2
    return lengths


def _first_pixels(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    first = np.zeros(count, dtype=np.int64)
    places = np.flatnonzero(labels)
    first[labels.ravel()[places[::-1]]] = places[::-1]
    return first


def _owners(
    skeleton: NDArray[np.uint8], body: NDArray[np.int32], attached: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return of each pixel of a skeleton the nearest cell along it, and how many pixels it is away; -1 of none."""
    from openhcs_jupyter.functions import _skeleton as kernels

    owner = np.zeros(skeleton.shape, dtype=np.int32)
    distance = np.full(skeleton.shape, -1, dtype=np.int32)
    near = skeleton.view(bool) & attached
    if near.any():
        from scipy.spatial import cKDTree

        inside = np.argwhere(body)
        places = np.argwhere(near)
        owner[near] = body[tuple(inside[cKDTree(inside).query(places)[1]].T)]
        distance[near] = 0
        kernels.spread(skeleton, owner, distance)
    return owner, distance


def _nearest_owner(
    labels: NDArray[np.int32], owners: tuple[NDArray[np.int32], NDArray[np.int32]], count: int
) -> NDArray[np.int64]:
    """Return for each branch the owner of its pixel that is nearest to a cell."""
    owner, distance = owners
    places = np.flatnonzero((labels > 0) & (distance >= 0))
    order = places[np.argsort(distance.ravel()[places], kind="stable")][::-1]
    cell = np.zeros(count, dtype=np.int64)
    cell[labels.ravel()[order]] = owner.ravel()[order]
    return cell
