"""Registration, held to scikit-image, to SciPy and to shifts that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import register_channels, register_frames
from openhcs_jupyter.functions.registration import find_shift, shift_plane
from tests.functions.images import quick, stacks


def scene(y: float = 0, x: float = 0, seed: int = 0, noise: float = 5.0, size: int = 160) -> NDArray[np.float64]:
    """Cells of known places, all moved by ``(y, x)``, under noise of their own."""
    rng = np.random.default_rng(11)
    rows, columns = np.indices((size, size))
    plane = np.full((size, size), 300.0)
    for cy, cx, width, height in rng.uniform((10, 10, 2, 300), (size - 10, size - 10, 5, 2000), (40, 4)):
        plane += height * np.exp(-((rows - cy - y) ** 2 + (columns - cx - x) ** 2) / (2 * width**2))
    return plane + np.random.default_rng(seed).normal(0, noise, plane.shape)


MOVES = [(0.0, 0.0), (3.0, -7.0), (-0.4, 2.65), (11.3, 9.75), (0.5, 0.5), (-18.2, 4.4)]


@pytest.mark.parametrize("moved", MOVES)
@pytest.mark.parametrize(("noise", "within"), [(5.0, 0.02), (50.0, 0.05), (200.0, 0.12)])
def test_a_known_shift_is_found(moved: tuple[float, float], noise: float, within: float) -> None:
    found = find_shift(scene(seed=1, noise=noise), scene(*moved, seed=2, noise=noise), max_shift=20)
    assert found[:2] == pytest.approx((-moved[0], -moved[1]), abs=within)
    assert found.correlation > 0.5


@pytest.mark.parametrize("moved", MOVES)
def test_large_planes_are_as_exact(moved: tuple[float, float]) -> None:
    found = find_shift(scene(seed=1, size=900), scene(*moved, seed=2, size=900), max_shift=20)
    assert found[:2] == pytest.approx((-moved[0], -moved[1]), abs=0.05)


@pytest.mark.parametrize("shape", [(160, 160), (121, 134), (54, 160)])
def test_it_is_the_shift_that_scikit_image_finds_without_noise(shape: tuple[int, int]) -> None:
    fixed = scene(noise=0)[: shape[0], : shape[1]]
    moving = scene(2.3, -4.6, noise=0)[: shape[0], : shape[1]]
    rows, columns = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in shape)
    windowed = [(plane - plane.mean()) * rows[:, None] * columns for plane in (fixed, moving)]
    expected, _, _ = phase_cross_correlation(*windowed, upsample_factor=100, normalization=None)
    # Under a window that stays what moves is seen a little less far moved.
    assert find_shift(fixed, moving, 20)[:2] == pytest.approx(tuple(expected), abs=0.3)
    assert find_shift(fixed, moving, 20)[:2] == pytest.approx((-2.3, 4.6), abs=0.02)


def test_channels_of_other_contrast_are_registered() -> None:
    other = 4000.0 - 0.3 * scene(seed=3) + np.linspace(0, 200, 160)
    inverted = find_shift(scene(seed=1), 0.2 * scene(6.4, 1.2, seed=4) ** 1.2 + np.linspace(0, 200, 160), 20)
    assert inverted[:2] == pytest.approx((-6.4, -1.2), abs=0.15)
    assert find_shift(scene(seed=1), other, 20).correlation < 0.5


@quick
@given(stacks(("uint16", "float32", "float64")), st.floats(-4, 4, width=32), st.floats(-4, 4, width=32))
def test_planes_are_shifted_as_by_scipy(stack: NDArray[Any], y: float, x: float) -> None:
    expected = ndimage.shift(stack[0].astype(np.float64), (y, x), order=1, mode="nearest")
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(shift_plane(stack[0], y, x), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_channels_are_laid_over_the_reference(dtype: str) -> None:
    stack = np.stack([scene(4.5, -3.25, seed=1), scene(seed=2)]).astype(dtype)
    out = register_channels(stack, reference=1)
    assert out.dtype == stack.dtype
    assert np.array_equal(out[1], stack[1])
    inner = np.s_[10:-10, 10:-10]
    truth = scene(noise=0)[inner]
    assert np.abs(out[0][inner] - truth).mean() < 0.1 * np.abs(stack[0][inner] - truth).mean()


@pytest.mark.parametrize("to", ["first", "previous"])
def test_the_drift_is_taken_out_of_a_film(to: Any) -> None:
    film = np.stack([scene(1.5 * t, -2.0 * t, seed=t) for t in range(5)])
    out = register_frames(film, to)
    assert np.array_equal(out[0], film[0])
    inner = np.s_[12:-12, 12:-12]
    truth = scene(noise=0)[inner]
    for before, after in zip(film[1:], out[1:], strict=True):
        assert np.abs(after[inner] - truth).mean() < 0.2 * np.abs(before[inner] - truth).mean()


def test_nothing_is_moved_further_than_allowed() -> None:
    noise = np.random.default_rng(5).normal(500, 30, (2, 90, 80))
    shift = find_shift(noise[0], noise[1], max_shift=3)
    assert max(np.abs(shift[:2])) <= 3
    assert shift.correlation < 0.3
    assert find_shift(scene(), scene(10, 0), max_shift=0)[:2] == (0, 0)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 9), (1, 7, 7), (3, 20, 20)])
def test_constant_and_tiny_planes_stay_where_they_are(shape: tuple[int, int, int]) -> None:
    stack = np.full(shape, 300, np.uint16)
    assert np.array_equal(register_channels(stack), stack)
    assert np.array_equal(register_frames(stack), stack)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack: register_channels(stack, "GFP"), "no channel 'GFP'"),
        (lambda stack: register_channels(stack, max_shift=-1), "max_shift is -1"),
        (lambda stack: register_frames(stack, "last"), "to is 'last'"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((2, 8, 8), np.uint16))
