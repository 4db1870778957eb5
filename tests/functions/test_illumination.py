"""A flat field over a plate, held to SciPy and to an illumination that is known."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from skimage.filters import gaussian

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import IlluminationEstimate, correct_illumination
from tests.functions.images import disks, quick, read_only, stacks


def vignette(size: int = 128) -> NDArray[np.float64]:
    """Light that falls off towards the corners by some 40 per cent, with a mean of 1."""
    y, x = (np.indices((size, size)) - size / 2) / size
    light = 1 - 0.8 * ((y - 0.1) ** 2 + x**2)
    return light / light.mean()


def fields(count: int) -> list[NDArray[np.uint16]]:
    """Fields with disks anywhere, under the same light."""
    rng = np.random.default_rng(8)
    dark = [disks([tuple(place) for place in rng.uniform(-8, 136, (14, 2))]) for _ in range(count)]
    return [read_only((field * vignette()).round().astype(np.uint16)) for field in dark]


def estimated(stacks: list[NDArray[Any]], sigma: float) -> NDArray[np.float32]:
    reducer = IlluminationEstimate(sigma)
    parts = [pickle.loads(pickle.dumps(reducer.update(reducer.init(), stack))) for stack in stacks]
    state = reducer.init()
    for part in parts:
        state = reducer.merge(state, part)
    return reducer.finish(state)


def test_the_light_is_found_and_taken_out() -> None:
    flat = estimated(fields(300), sigma=12)
    assert flat.dtype == np.float32
    assert flat.mean() == pytest.approx(1, abs=1e-5)
    error = np.abs(flat / vignette() - 1)
    assert np.quantile(error, 0.95) < 0.1
    even = read_only((1000 * vignette()).round().astype(np.uint16)[None])
    corrected = correct_illumination(even, flat)
    assert corrected.std() < 0.4 * even.std()


def test_without_blocks_it_is_the_mean_smoothed_as_by_scikit_image() -> None:
    planes = fields(5)
    smooth = gaussian(np.concatenate(planes).mean(axis=0), 3)
    np.testing.assert_allclose(estimated(planes, sigma=3), smooth / smooth.mean(), rtol=1e-5)


def test_blocks_change_little() -> None:
    planes = fields(5)
    smooth = gaussian(np.concatenate(planes).mean(axis=0), 20)
    error = np.abs(estimated(planes, sigma=20) * smooth.mean() / smooth - 1)
    # Most in the corners, where half a block lies beyond the last mean.
    assert np.quantile(error, 0.95) < 0.03
    assert error.max() < 0.1


def test_stacks_and_single_planes_give_the_same() -> None:
    planes = fields(4)
    np.testing.assert_allclose(estimated([np.concatenate(planes)], 10), estimated(planes, 10), rtol=1e-6)


@quick
@given(stacks(("uint8", "uint16", "int16", "float32", "float64")))
def test_planes_are_divided(stack: NDArray[Any]) -> None:
    flat = np.linspace(0.5, 2, stack[0].size, dtype=np.float32).reshape(stack[0].shape)
    out = correct_illumination(stack, flat[None], offset=5)
    assert out.dtype == stack.dtype
    expected = (stack.astype(np.float64) - 5) / flat
    if stack.dtype.kind in "iu":
        limits = np.iinfo(stack.dtype)
        expected = expected.clip(limits.min, limits.max)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(out, expected, rtol=0, atol=0.51 if stack.dtype.kind in "iu" else 1e-6 * scale)


def test_a_dark_plate_has_no_flat_field() -> None:
    with pytest.raises(UsageError, match="smoothed mean of 2 planes is 0 somewhere"):
        estimated([np.zeros((2, 20, 20), np.uint16)], 5)


def test_no_planes_are_an_error() -> None:
    with pytest.raises(UsageError, match="no planes"):
        estimated([], 5)


def test_planes_of_two_sizes_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"some planes have the shape \(20, 20\), others \(20, 30\)"):
        estimated([np.ones((1, 20, 20)), np.ones((1, 20, 30))], 5)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (np.ones((4, 8)), "flat field has the shape"),
        (np.zeros((8, 8)), "not above 0"),
        (np.full((8, 8), np.nan), "not above 0"),
    ],
)
def test_flat_fields_that_do_not_fit_are_refused(flat: NDArray[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        correct_illumination(np.ones((1, 8, 8), np.uint16), flat)
