"""Thresholds, held to scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import filters
from skimage.filters import threshold_local

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import adaptive_threshold, threshold
from openhcs_jupyter.functions.thresholds import find_threshold
from tests.functions.images import disks, quick, stacks

METHODS = {
    "otsu": filters.threshold_otsu,
    "li": filters.threshold_li,
    "triangle": filters.threshold_triangle,
}


@quick
@given(stacks(("uint8", "uint16")), st.sampled_from(sorted(METHODS)))
def test_thresholds_are_those_of_scikit_image(stack: NDArray[Any], method: Any) -> None:
    found = find_threshold(stack, method)
    if stack.min() == stack.max():
        assert found == stack.min()
        return
    expected = METHODS[method](stack.ravel())
    # Several thresholds may divide the pixels alike; what counts is the division.
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6) or np.array_equal(stack > found, stack > expected)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_thresholds_of_cells_are_those_of_scikit_image(method: Any, dtype: str) -> None:
    stack = disks([(30, 30), (80, 60)], noise=40).astype(dtype)
    assert find_threshold(stack, method) == pytest.approx(float(METHODS[method](stack.ravel())), rel=1e-6)
    assert np.array_equal(threshold(stack, method), stack > METHODS[method](stack.ravel()))


def test_a_threshold_may_be_a_number_or_found_for_each_plane() -> None:
    bright = disks([(30, 30)])
    stack = np.concatenate([bright, bright // 4])
    assert threshold(stack, 1000)[0].sum() == (bright > 1000).sum()
    assert not threshold(stack, 1000)[1].any()
    each = threshold(stack, per="plane")
    assert each.dtype == np.uint8
    assert np.array_equal(each[0], each[1])


@quick
@given(
    stacks(("uint8", "uint16", "int16", "float32", "float64")),
    st.sampled_from([3, 5, 11]),
    st.sampled_from([0.0, -3.0, 10.0]),
    st.sampled_from(["gaussian", "mean"]),
)
def test_the_pixels_are_those_above_the_threshold_of_scikit_image(
    stack: NDArray[Any], side: int, offset: float, method: Any
) -> None:
    out = adaptive_threshold(stack, side, offset, method)
    assert out.dtype == np.uint8
    for plane, mask in zip(stack.astype(np.float64), out, strict=True):
        limit = threshold_local(plane, side, method, offset, mode="nearest")
        sure = np.abs(plane - limit) > 1e-5 * max(1.0, float(np.abs(plane).max()))
        assert np.array_equal(mask[sure], (plane > limit)[sure])


def test_objects_on_a_slope_are_told_from_it() -> None:
    y, _ = np.indices((128, 128))
    truth = disks([(20, 20), (100, 100)], noise=0)[0] > 1000
    stack = (np.where(truth, 900, 200) + 20 * y).astype(np.uint16)[None]
    assert np.array_equal(adaptive_threshold(stack, 61, -250)[0], truth)
    assert not np.array_equal(threshold(stack)[0], truth)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_size": 4}, "block_size is 4"),
        ({"offset": float("nan")}, "offset is nan"),
        ({"method": "median"}, "method is 'median'"),
    ],
)
def test_parameters_that_do_not_fit_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adaptive_threshold(np.ones((1, 8, 8), np.uint16), **params)
