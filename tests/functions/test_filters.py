"""Gaussian blur, sharpening, median and top-hat, held to scikit-image and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, morphology, transform

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import gaussian_blur, median, sharpen, top_hat
from tests.functions.images import disks, quick, stacks


@quick
@given(stacks(("uint8", "uint16", "int16", "float32", "float64")), st.sampled_from([0.5, 1.0, 2.0, 3.3]))
def test_gaussian_blur_is_that_of_scikit_image(stack: NDArray[Any], sigma: float) -> None:
    out = gaussian_blur(stack, sigma)
    assert out.dtype == stack.dtype
    expected = np.stack([filters.gaussian(plane.astype(np.float64), sigma) for plane in stack])
    # Integers are rounded, by a half at most; float32 keeps seven digits.
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(out, expected, rtol=0, atol=0.51 if stack.dtype.kind in "iu" else 1e-5 * scale)


def test_sigma_0_returns_a_copy() -> None:
    stack = disks([(40, 40)])
    out = gaussian_blur(stack, 0)
    assert np.array_equal(out, stack)
    assert out.flags.writeable


def test_a_saturated_image_stays_saturated() -> None:
    stack = np.full((1, 20, 20), 65535, np.uint16)
    assert gaussian_blur(stack, 2).min() == 65535


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_sharpening_is_the_unsharp_mask_of_scikit_image(dtype: str) -> None:
    stack = disks([(40, 40), (90, 64)], noise=40).astype(dtype)
    out = sharpen(stack, sigma=1.5, amount=0.8)
    assert out.dtype == stack.dtype
    expected = filters.unsharp_mask(stack[0].astype(np.float64), 1.5, 0.8, preserve_range=True)
    if dtype == "uint16":
        expected = expected.clip(0, 65535)
    # The border is treated otherwise, as far as the kernel reaches.
    inner = np.s_[6:-6, 6:-6]
    np.testing.assert_allclose(out[0][inner], expected[inner], rtol=1e-5, atol=0.51 if dtype == "uint16" else 0.01)


@quick
@given(stacks(("uint8", "uint16", "int16", "float32")), st.sampled_from([0.5, 2.0]))
def test_what_is_sharpened_adds_what_a_blur_takes_away(stack: NDArray[Any], amount: float) -> None:
    plane = stack.astype(np.float64)
    expected = plane + amount * (plane - np.stack([filters.gaussian(one, 1.0) for one in plane]))
    if stack.dtype.kind in "iu":
        limits = np.iinfo(stack.dtype)
        expected = expected.clip(limits.min, limits.max)
    scale = max(1.0, float(np.abs(plane).max()))
    tolerance = 0.51 if stack.dtype.kind in "iu" else 1e-5 * scale
    np.testing.assert_allclose(sharpen(stack, 1.0, amount), expected, rtol=0, atol=tolerance)


def test_an_amount_of_0_changes_nothing() -> None:
    stack = disks([(40, 40)])
    assert np.array_equal(sharpen(stack, amount=0), stack)


@quick
@given(stacks(("uint8", "uint16", "float32")), st.sampled_from([1, 2]))
def test_median_is_that_of_scipy(stack: NDArray[Any], radius: int) -> None:
    expected = [ndimage.median_filter(plane, 2 * radius + 1, mode="nearest") for plane in stack]
    assert np.array_equal(median(stack, radius), np.stack(expected))


@quick
@given(stacks(("uint8", "uint16", "float32", "float64")), st.integers(1, 5))
def test_top_hat_is_that_of_scikit_image(stack: NDArray[Any], radius: int) -> None:
    expected = np.stack([morphology.white_tophat(plane, morphology.disk(radius)) for plane in stack])
    assert np.array_equal(top_hat(stack, radius, downsample=1), expected)


def test_a_smaller_background_is_close_to_that_of_openhcs() -> None:
    y, x = np.indices((130, 122))
    plane = 300 + 2.0 * y + x
    for cy, cx in [(30, 30), (60, 90), (100, 40)]:
        plane[np.hypot(y - cy, x - cx) < 7] += 3000
    plane = plane.astype(np.uint16)
    # OpenHCS: shrink with anti-aliasing, open with a disk of radius // factor, enlarge without interpolation.
    small = transform.resize(plane, (130 // 4, 122 // 4), anti_aliasing=True, preserve_range=True)
    background = small - morphology.white_tophat(small, morphology.disk(20 // 4))
    expected = np.maximum(plane - transform.resize(background, plane.shape, order=0, preserve_range=True), 0)
    difference = np.abs(top_hat(plane[None], 20, 4)[0] - expected)
    assert np.quantile(difference, 0.99) < 0.01 * 3000
    assert difference.max() < 0.05 * 3000


def test_a_factor_keeps_objects_and_removes_a_slope() -> None:
    stack = disks([(40, 40), (90, 80)], noise=0) + np.arange(128, dtype=np.uint16)[:, None] * 4
    out = top_hat(stack, radius=20, downsample=4)
    assert out[0, 40, 40] > 1700
    assert np.median(out) < 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack: gaussian_blur(stack, -1), "sigma is -1"),
        (lambda stack: sharpen(stack, -1), "sigma is -1"),
        (lambda stack: sharpen(stack, 1, -1), "amount is -1"),
        (lambda stack: median(stack, 3), "radius is 3"),
        (lambda stack: median(stack.astype(np.int32)), "pixels are int32"),
        (lambda stack: top_hat(stack, 0), "radius is 0"),
        (lambda stack: top_hat(stack, 5, 6), "downsample is 6"),
        (lambda stack: gaussian_blur(stack * np.float32("nan")), "NaN"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((1, 8, 8), np.uint16))
