"""Projections and composites, held to NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import composite, max_projection, mean_projection, min_projection, sum_projection
from tests.functions.images import quick, stacks


@quick
@given(stacks())
def test_the_extremes_are_those_of_numpy(stack: NDArray[Any]) -> None:
    for project, expected in ((max_projection, stack.max(axis=0)), (min_projection, stack.min(axis=0))):
        out = project(stack)
        assert out.dtype == stack.dtype
        assert out.shape == (1, *stack.shape[1:])
        assert np.array_equal(out[0], expected)


@quick
@given(stacks())
def test_the_mean_is_rounded_to_the_nearest(stack: NDArray[Any]) -> None:
    out = mean_projection(stack)
    assert out.dtype == stack.dtype
    tolerance = 0.5 if stack.dtype.kind in "iu" else 1e-3
    np.testing.assert_allclose(out[0], stack.mean(axis=0, dtype=np.float64), rtol=0, atol=tolerance)


def test_a_sum_of_16_bits_does_not_overflow() -> None:
    out = sum_projection(np.full((300, 2, 2), 65535, np.uint16))
    assert out.dtype == np.uint32
    assert (out == 300 * 65535).all()


@quick
@given(stacks(), st.lists(st.floats(0.1, 5), min_size=3, max_size=3))
def test_a_composite_is_the_weighted_mean(stack: NDArray[Any], weights: list[float]) -> None:
    weights = weights[: len(stack)]
    out = composite(stack, weights)
    assert out.dtype == stack.dtype
    assert out.shape == (1, *stack.shape[1:])
    expected = np.average(stack.astype(np.float64), axis=0, weights=weights)
    scale = max(1.0, float(np.abs(stack.astype(np.float64)).max()))
    np.testing.assert_allclose(out[0], expected, rtol=0, atol=(0.51 if stack.dtype.kind in "iu" else 0) + 1e-6 * scale)


def test_without_weights_all_planes_count_alike() -> None:
    stack = np.stack([np.full((2, 2), value, np.uint16) for value in (100, 200, 400)])
    assert (composite(stack) == 233).all()


@pytest.mark.parametrize(("weights", "message"), [([1], "1 weights for 2 planes"), ([1, -1], "add up to 0")])
def test_weights_that_do_not_fit_are_named(weights: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        composite(np.ones((2, 3, 3), np.uint16), weights)


def test_nan_is_an_error() -> None:
    with pytest.raises(UsageError, match="max_projection: 1 of 8 pixels"):
        max_projection(np.array([[[0, 1], [2, 3]], [[0, 1], [np.nan, 3]]], np.float32))
