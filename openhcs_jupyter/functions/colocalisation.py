"""How far two channels show the same places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._checks import Stack, channel_names, check_stack, label_plane
from openhcs_jupyter.functions.thresholds import Method, check_method, find_threshold
from openhcs_jupyter.pipeline.contracts import Context, measure

if TYPE_CHECKING:
    import pandas as pd

_CONSTANT = 1e-20


@measure(stack="channel", need=8.0)
def colocalisation(
    stack: Stack,
    labels: NDArray[Any] | None = None,
    method: Method | float = "otsu",
    context: Context | None = None,
) -> pd.DataFrame:
    """Measure the colocalisation of every two channels, over the whole field or in each object.

    Parameters
    ----------
    stack : ndarray of shape (C, Y, X)
        Two planes or more, one a channel, of any integer or floating-point type; intensities of at least 0.
    labels : ndarray of shape (Y, X) or (1, Y, X), optional
        Integers; 0 is background. Left out, the whole field is one object with the label 0.
    method
        Above which threshold a channel counts as there, for Manders' coefficients: found over the whole plane as in
        `threshold`, or the threshold itself.
    context
        Names the channels; without it they are numbered from 0.

    Returns
    -------
    DataFrame
        One row an object, by label: ``label``, ``pixels``, and for every two channels A and B ``pearson_A_B``:
        Pearson's correlation; ``overlap_A_B``: Manders' overlap coefficient; ``manders_A_B``: the share of A's
        intensity where B is above its threshold, and ``manders_B_A`` the other way. NaN where it is not defined, as the
        correlation with a constant.

    Raises
    ------
    UsageError
        If a pixel is NaN, infinite or negative, there is one channel only, or the labels do not fit the stack.

    Notes
    -----
    As `skimage.measure.pearson_corr_coeff`, `manders_coloc_coeff` and `manders_overlap_coeff` within each object.
    Manders et al. (1993). Sums in float64.
    """
    from openhcs_jupyter.functions._colocalisation import pair_sums

    names = check_channels(stack, method, context)
    groups, numbers = _groups(labels, stack.shape[1:])
    limits = [float(method) if isinstance(method, int | float) else find_threshold(plane, method) for plane in stack]

    def sums(i: int, j: int) -> NDArray[np.float64]:
        return pair_sums(stack[i], stack[j], groups, (limits[i], limits[j]), len(numbers))

    return table_of(names, numbers, sums)


def check_channels(stack: Stack, method: Method | float, context: Context | None) -> tuple[str, ...]:
    """Refuse what `colocalisation` does not take, and return the channels' names."""
    check_stack(stack, "colocalisation")
    names = channel_names(context, len(stack))
    if len(stack) < 2:
        raise UsageError("colocalisation: it was given one channel", "Name two or more with channel=, or none.")
    if stack.dtype.kind in "if" and stack.min() < 0:
        raise UsageError("colocalisation: some pixels are negative", "Intensities are at least 0.")
    check_method("colocalisation", method)
    return names


def table_of(
    names: Sequence[str], numbers: NDArray[np.int64], sums: Callable[[int, int], NDArray[np.float64]]
) -> pd.DataFrame:
    """Make the table of `colocalisation`.

    Parameters
    ----------
    names
        Of the channels.
    numbers
        The labels of the objects.
    sums
        Adds up two channels by object, as `pair_sums` does.
    """
    import pandas as pd

    columns: dict[str, NDArray[Any]] = {"label": numbers}
    for (a, i), (b, j) in itertools.combinations(zip(names, range(len(names)), strict=True), 2):
        pixels, one, other, over, over_other, squares, squares_other, products, shared, shared_other = sums(i, j)
        columns["pixels"] = pixels.astype(np.int64)
        whole, whole_other = over + pixels * one, over_other + pixels * other
        power = squares + 2 * one * over + pixels * one**2
        power_other = squares_other + 2 * other * over_other + pixels * other**2
        together = products + one * over_other + other * over + pixels * one * other
        common = products - over * over_other / pixels
        spread = _spread(squares - over**2 / pixels, power) * _spread(
            squares_other - over_other**2 / pixels, power_other
        )
        columns[f"pearson_{a}_{b}"] = _divided(common, spread)
        columns[f"overlap_{a}_{b}"] = _divided(together, np.sqrt(power * power_other))
        columns[f"manders_{a}_{b}"] = _divided(shared, whole)
        columns[f"manders_{b}_{a}"] = _divided(shared_other, whole_other)
    return pd.DataFrame(columns)


def _spread(squares: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    # What rounding leaves of a constant is not correlated with anything.
    return np.sqrt(np.where(squares > _CONSTANT * power, squares, 0.0))


def _groups(labels: NDArray[Any] | None, shape: tuple[int, ...]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return planes of objects numbered from 0, background -1, and the labels of the objects."""
    if labels is None:
        return np.zeros(shape, dtype=np.int32), np.zeros(1, dtype=np.int64)
    plane, own = label_plane(labels, shape, "colocalisation")
    present = np.flatnonzero(np.bincount(plane.ravel()))
    present = present[present > 0]
    number = np.full(int(plane.max()) + 1, -1, dtype=np.int32)
    number[present] = np.arange(len(present))
    return number[plane], present.astype(np.int64) if own is None else own[present]


def _divided(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    quotient: NDArray[np.float64] = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return quotient
