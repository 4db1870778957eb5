"""Spots, held to SciPy's filter, to scikit-image's detector and to spots whose places are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.feature import blob_log

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import find_spots
from openhcs_jupyter.functions.spots import laplacian_of_gaussian
from tests.functions.images import quick, read_only, stacks
from tests.functions.test_measurement import HERE

PLACES = np.array([(20.0, 20.5), (20.25, 60.0), (70.4, 33.3), (90.0, 90.0), (97.7, 12.2)])


def spotted(noise: float = 10.0, height: float = 400.0, places: Any = PLACES) -> NDArray[np.uint16]:
    """Gaussian spots on an even background."""
    y, x = np.indices((110, 110))
    plane = np.full(y.shape, 300.0)
    for cy, cx in places:
        plane += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.5**2))
    plane += np.random.default_rng(4).normal(0, noise, plane.shape)
    return read_only(plane.round().clip(0, 65535).astype(np.uint16)[None])


@quick
@given(stacks(("uint8", "uint16", "float32", "float64")), st.sampled_from([0.5, 1.0, 1.7]))
def test_the_filter_is_that_of_scipy(stack: NDArray[Any], sigma: float) -> None:
    expected = ndimage.gaussian_laplace(stack[0].astype(np.float64), sigma, mode="nearest") * sigma**2
    scale = max(1.0, float(np.abs(stack[0].astype(np.float64)).max()))
    np.testing.assert_allclose(laplacian_of_gaussian(stack[0], sigma), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_spots_are_found_where_they_are(dtype: str) -> None:
    found = find_spots(spotted().astype(dtype), radius=2)
    np.testing.assert_allclose(found[["y", "x"]], PLACES[np.lexsort((PLACES[:, 1], PLACES[:, 0].round()))], atol=0.2)
    assert (found["contrast"] > 6).all()
    assert found["intensity"].between(600, 740).all()


def test_they_are_those_of_scikit_image() -> None:
    plane = spotted()[0].astype(np.float64)
    expected = blob_log(plane, min_sigma=2**0.5, max_sigma=2**0.5, num_sigma=1, threshold=80)[:, :2]
    found = find_spots(plane[None], radius=2)[["y", "x"]].to_numpy()
    assert len(found) == len(expected)
    # Ours are refined by less than a pixel.
    assert cdist(found, expected).min(axis=0).max() < 0.75


@pytest.mark.parametrize("scale", [1 / 65535, 1.0, 60.0])
def test_the_scale_of_intensities_does_not_matter(scale: float) -> None:
    assert len(find_spots(spotted().astype(np.float32) * np.float32(scale))) == len(PLACES)


@pytest.mark.parametrize("value", [0, 300, 65535])
def test_an_even_plane_has_no_spots(value: int) -> None:
    found = find_spots(np.full((1, 40, 50), value, np.uint16))
    assert len(found) == 0
    assert list(found.columns) == ["channel", "y", "x", "intensity", "contrast"]
    assert (found.drop(columns="channel").dtypes == np.float64).all()


def test_noise_alone_has_no_spots() -> None:
    assert len(find_spots(spotted(places=[]))) == 0


def test_a_spot_without_noise_is_one_spot() -> None:
    found = find_spots(spotted(noise=0, places=[(50.0, 60.0)]))
    assert found[["y", "x"]].to_numpy().tolist() == [[pytest.approx(50, abs=0.01), pytest.approx(60, abs=0.01)]]


def test_a_spot_on_the_border_is_found() -> None:
    found = find_spots(spotted(places=[(0.0, 50.0), (60.0, 109.0)]))
    np.testing.assert_allclose(found[["y", "x"]], [[0, 50], [60, 109]], atol=0.3)


def test_channels_are_named_and_tables_without_spots_have_their_types() -> None:
    stack = np.concatenate([spotted(), np.full((1, 110, 110), 5, np.uint16)])
    found = find_spots(stack, context=HERE)
    assert found["channel"].tolist() == ["DAPI"] * len(PLACES)
    pd.testing.assert_series_equal(found.dtypes, find_spots(stack[1:]).dtypes)


@quick
@given(stacks())
def test_any_plane_has_spots_within_it(stack: NDArray[Any]) -> None:
    found = find_spots(stack, min_contrast=0)
    assert found["y"].between(0, stack.shape[1] - 1).all()
    assert found["x"].between(0, stack.shape[2] - 1).all()
    assert np.isfinite(found["contrast"]).all()


@pytest.mark.parametrize(
    ("params", "message"), [({"radius": 0.5}, "radius is 0.5"), ({"min_contrast": -1}, "min_contrast is -1")]
)
def test_parameters_that_do_not_fit_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_spots(np.ones((1, 8, 8), np.uint16), **params)
