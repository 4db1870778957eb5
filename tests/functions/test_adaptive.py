"""Adaptive thresholds, held to scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.filters import threshold_local

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import adaptive_threshold, threshold
from tests.functions.images import disks, quick, stacks


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
