"""Subtraction of a background, held to scikit-image and to a plane whose background is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import filters, morphology

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import subtract_background
from tests.functions.images import disks, quick, stacks


@quick
@given(stacks(("uint8", "uint16", "int16", "float32", "float64")), st.integers(1, 5))
def test_the_background_is_an_opening_blurred(stack: NDArray[Any], radius: int) -> None:
    out = subtract_background(stack, radius, downsample=1)
    assert out.dtype == stack.dtype
    planes = stack.astype(np.float64)
    opened = [morphology.opening(plane, morphology.disk(radius)) for plane in planes]
    background = np.stack([filters.gaussian(plane, radius / 2) for plane in opened])
    # Integers are rounded, by a half at most; float32 keeps seven digits.
    scale = max(1.0, float(np.abs(planes).max()))
    tolerance = 0.51 if stack.dtype.kind in "iu" else 1e-5 * scale
    most = np.iinfo(stack.dtype).max if stack.dtype.kind in "iu" else np.inf
    np.testing.assert_allclose(out, (planes - background).clip(0, most), rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [1.0, 1 / 65535])
def test_a_slope_goes_and_objects_stay_on_any_scale(scale: float) -> None:
    y, x = np.indices((128, 128))
    stack = ((disks([(40, 40), (90, 80)], noise=0) + 4.0 * y + 2.0 * x) * scale).astype(np.float32)
    out = subtract_background(stack, radius=24) / scale
    assert out[0, 40, 40] == pytest.approx(1800, abs=100)
    assert out[0, 90, 80] == pytest.approx(1800, abs=100)
    assert np.quantile(out, 0.9) < 100


def test_a_constant_plane_is_all_background() -> None:
    assert not subtract_background(np.full((2, 30, 41), 65535, np.uint16), radius=10).any()


@pytest.mark.parametrize(
    ("params", "message"), [({"radius": 0}, "radius is 0"), ({"radius": 4, "downsample": 5}, "downsample is 5")]
)
def test_parameters_that_do_not_fit_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        subtract_background(np.ones((1, 8, 8), np.uint16), **params)
