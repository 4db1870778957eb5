"""Percentile normalisation of stacks and plates, held to numpy.percentile."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import PlatePercentiles, normalize_with, percentile_normalize
from openhcs_jupyter.functions.histogram import histogram, percentiles
from tests.functions.images import quick, read_only, stacks


def stretched(stack: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    bottom, top = np.percentile(stack.astype(np.float64), (low, high))
    if bottom == top:
        return np.zeros(stack.shape)
    return (np.clip(stack.astype(np.float64), bottom, top) - bottom) * 65535 / (top - bottom)


@quick
@given(stacks(("uint8", "uint16")), st.lists(st.floats(0, 100), min_size=1, max_size=3))
def test_percentiles_of_a_histogram_are_those_of_numpy(stack: NDArray[Any], q: list[float]) -> None:
    expected = np.percentile(stack.astype(np.float64), q)
    np.testing.assert_allclose(percentiles(histogram(stack), q), expected, rtol=1e-9, atol=1e-9)


@quick
@given(stacks(), st.floats(0, 40), st.floats(60, 100))
def test_the_percentiles_become_0_and_65535(stack: NDArray[Any], low: float, high: float) -> None:
    out = percentile_normalize(stack, low, high)
    assert out.dtype == np.uint16
    assert out.shape == stack.shape
    expected = stretched(stack, low, high)
    spread = np.ptp(np.percentile(stack.astype(np.float64), (low, high)))
    if spread > 1e-6 * max(1.0, float(np.abs(stack.astype(np.float64)).max())):
        np.testing.assert_allclose(out, expected, rtol=0, atol=1)


def test_every_value_of_16_bits_is_within_one_of_the_formula() -> None:
    stack = read_only(np.arange(65536, dtype=np.uint16).reshape(1, 256, 256))
    np.testing.assert_allclose(percentile_normalize(stack, 1, 99.8), stretched(stack, 1, 99.8), rtol=0, atol=1)


def test_planes_are_stretched_together_or_each_by_itself() -> None:
    dark = np.arange(100, dtype=np.uint16).reshape(1, 10, 10)
    stack = read_only(np.concatenate([dark, dark * 10]))
    together, apart = percentile_normalize(stack, 0, 100), percentile_normalize(stack, 0, 100, per="plane")
    assert together[0].max() == pytest.approx(6554, abs=1)
    assert apart[0].max() == apart[1].max() == 65535


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_a_constant_image_becomes_zeros(dtype: str) -> None:
    assert not percentile_normalize(np.full((2, 5, 5), 7, dtype=dtype)).any()


def test_large_float_values_keep_their_spread() -> None:
    stack = np.linspace(1e9, 1e9 + 1, 64).reshape(1, 8, 8)
    np.testing.assert_allclose(percentile_normalize(stack, 0, 100), stretched(stack, 0, 100), rtol=0, atol=1)


def test_nan_is_an_error_that_says_how_many() -> None:
    stack = np.zeros((1, 4, 4), dtype=np.float32)
    stack[0, 1, :2] = np.nan
    with pytest.raises(UsageError, match="percentile_normalize: 2 of 16 pixels are NaN"):
        percentile_normalize(stack)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"low": -1}, "low is -1"),
        ({"high": 101}, "high is 101"),
        ({"low": 60, "high": 40}, "low must be below high"),
        ({"low": float("nan")}, "low is nan"),
        ({"per": "field"}, "per is 'field'"),
    ],
)
def test_parameters_that_do_not_fit_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        percentile_normalize(np.zeros((1, 2, 2), np.uint16), **params)


def test_a_single_plane_without_its_axis_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(N, Y, X\)"):
        percentile_normalize(np.zeros((4, 4), np.uint16))


def over_a_plate(stacks: list[NDArray[Any]], low: float, high: float) -> dict[str, float]:
    reducer = PlatePercentiles(low, high)
    parts = [pickle.loads(pickle.dumps(reducer.update(reducer.init(), stack))) for stack in stacks]
    return reducer.finish(functools.reduce(reducer.merge, parts, reducer.init()))


@quick
@given(st.sampled_from(["uint8", "uint16"]), st.data(), st.floats(0, 40), st.floats(60, 100))
def test_percentiles_over_a_plate_are_those_of_numpy(dtype: str, data: st.DataObject, low: float, high: float) -> None:
    plate = data.draw(st.lists(stacks((dtype,)), min_size=1, max_size=4))
    found = over_a_plate(plate, low, high)
    pixels = np.concatenate([stack.ravel() for stack in plate]).astype(np.float64)
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(pixels, (low, high))), abs=1e-9)


@quick
@given(stacks(), st.floats(0, 40), st.floats(60, 100))
def test_limits_that_are_given_become_0_and_65535(stack: NDArray[Any], low: float, high: float) -> None:
    limits = pd.DataFrame({"channel": "DAPI", "low": [low], "high": [high]}, index=[3])
    out = normalize_with(stack, limits)
    assert out.dtype == np.uint16
    expected = (np.clip(stack.astype(np.float64), low, high) - low) * 65535 / (high - low)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1)


def test_equal_limits_give_zeros() -> None:
    limits = pd.DataFrame({"low": [7.0], "high": [7.0]})
    assert not normalize_with(np.full((1, 3, 3), 9, np.uint16), limits).any()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"low": [1.0]}, "limits have 1 rows and the columns low"),
        ({"low": [1.0, 2.0], "high": [3.0, 4.0]}, "limits have 2 rows"),
        ({"low": [5.0], "high": [4.0]}, "low is 5 and high is 4"),
        ({"low": [float("nan")], "high": [4.0]}, "low is nan"),
    ],
)
def test_limits_that_do_not_fit_are_named(limits: dict[str, list[float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normalize_with(np.ones((1, 2, 2), np.uint16), pd.DataFrame(limits))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack: over_a_plate([stack], 60, 40), "PlatePercentiles: low is 60 and high is 40"),
        (lambda stack: over_a_plate([stack.astype(np.float32)], 1, 99), "pixels are float32"),
        (lambda stack: over_a_plate([stack, stack.astype(np.uint8)], 1, 99), "some pixels are uint16, others uint8"),
        (lambda stack: over_a_plate([], 1, 99), "no pixels"),
    ],
)
def test_what_has_no_percentiles_over_a_plate_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((1, 2, 2), np.uint16))


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_few_bright_pixels_in_a_dark_image_stay_bright(dtype: str) -> None:
    stack = np.zeros((1, 100, 100), dtype)
    stack[0, :2] = 1
    stack[0, 0, 0] = 60000
    out = percentile_normalize(stack, 1, 99)
    assert out[0, 0, 0] == out[0, 1].min() == 65535
    assert not out[0, 2:].any()
