"""Focus selection, held to SciPy and to stacks whose sharpest slice is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from scipy import ndimage

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import focus_select
from tests.functions.images import disks, quick, stacks


@quick
@given(stacks())
def test_the_plane_has_the_greatest_variance_of_scipys_laplacian(stack: NDArray[Any]) -> None:
    out = focus_select(stack, sigma=0)
    assert out.dtype == stack.dtype
    assert out.shape == (1, *stack.shape[1:])
    details = [ndimage.laplace(plane.astype(np.float64), mode="nearest").var() for plane in stack]
    chosen = [detail for plane, detail in zip(stack, details, strict=True) if np.array_equal(plane, out[0])]
    scale = max(1.0, float(np.abs(stack.astype(np.float64)).max()))
    assert max(chosen) == pytest.approx(max(details), rel=1e-4, abs=1e-9 * scale**2)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_sharp_slice_is_found_in_spite_of_noise(dtype: str) -> None:
    sharp = disks([(40, 40), (90, 80)], noise=0)[0].astype(np.float64)
    rng = np.random.default_rng(2)
    blurred = [ndimage.gaussian_filter(sharp, sigma) for sigma in (6, 3, 0, 2, 5)]
    stack = np.stack([plane + rng.normal(0, 20, plane.shape) for plane in blurred]).clip(0).astype(dtype)
    assert np.array_equal(focus_select(stack)[0], stack[2])


def test_of_equal_planes_the_first_is_taken_as_a_copy() -> None:
    stack = np.full((3, 5, 6), 7, np.uint8)
    out = focus_select(stack)
    assert np.array_equal(out, stack[:1])
    assert not np.shares_memory(out, stack)


def test_a_negative_sigma_is_named() -> None:
    with pytest.raises(UsageError, match="sigma is -1"):
        focus_select(np.ones((1, 8, 8), np.uint16), sigma=-1)
