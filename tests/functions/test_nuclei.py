"""Nuclei, held to scikit-image and to disks whose places are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, measure

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import segment_nuclei
from tests.functions.images import disks, quick, read_only, stacks


def test_nuclei_are_found_where_they_are() -> None:
    centres = [(20.0, 100.0), (30.0, 30.0), (90.0, 64.0)]
    stack, labels = segment_nuclei(disks(centres))
    assert stack.shape == labels.shape == (1, 128, 128)
    assert labels.dtype == np.int32
    found = [region.centroid for region in measure.regionprops(labels[0])]
    # In raster order: by the row in which each begins.
    np.testing.assert_allclose(found, centres, atol=0.3)


def test_the_foreground_is_that_of_scikit_image() -> None:
    stack = disks([(20, 100), (30, 30), (90, 64)], noise=60)
    smooth = filters.gaussian(stack[0].astype(np.float64), 1.0).round().astype(np.uint16)
    expected = ndimage.binary_fill_holes(smooth > filters.threshold_otsu(smooth))
    _, labels = segment_nuclei(stack, sigma=1.0)
    # float32 may round a pixel otherwise than float64.
    assert ((labels[0] > 0) != expected).sum() <= 4


def test_touching_nuclei_are_divided_in_the_middle() -> None:
    _, labels = segment_nuclei(disks([(60, 50), (60, 65)]))
    assert labels.max() == 2
    assert set(np.unique(labels[0, 60, 45:56])) == {1}
    assert set(np.unique(labels[0, 60, 60:71])) == {2}


def test_holes_are_filled() -> None:
    stack = disks([(60, 60)]).copy()
    stack[0, 58:61, 58:61] = 200
    _, labels = segment_nuclei(stack, sigma=0)
    assert (labels[0, 58:61, 58:61] == 1).all()


def test_numbers_are_consecutive_after_objects_are_left_out_by_area() -> None:
    stack = disks([(30, 30), (90, 90)]).copy()
    stack[0, 5:8, 5:8] = 2000
    stack[0, 60:64, :120] = 2000
    _, labels = segment_nuclei(stack, sigma=0, min_area=30, max_area=400)
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert labels[0, 30, 30] == 1
    assert labels[0, 90, 90] == 2


def test_each_plane_is_numbered_by_itself() -> None:
    both = np.concatenate([disks([(30, 30), (90, 90)]), disks([(60, 60)])])
    _, labels = segment_nuclei(both)
    assert labels[0].max() == 2
    assert labels[1].max() == 1


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_has_no_nuclei(value: int) -> None:
    stack, labels = segment_nuclei(read_only(np.full((2, 40, 50), value, np.uint16)))
    assert (stack == value).all()
    assert not labels.any()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_noise_alone_has_no_nuclei(dtype: str) -> None:
    noise = np.random.default_rng(3).normal(500, 30, (1, 200, 200)).astype(dtype)
    assert not segment_nuclei(noise)[1].any()


def test_a_saturated_image_with_nuclei_is_segmented() -> None:
    stack = np.where(disks([(30, 30), (80, 80)]) > 1000, 65535, 300).astype(np.uint16)
    assert segment_nuclei(stack)[1].max() == 2


@quick
@given(stacks(largest=24), st.sampled_from(["otsu", 0]))
def test_any_image_gives_labels_without_gaps(stack: NDArray[Any], method: Any) -> None:
    _, labels = segment_nuclei(stack, sigma=0, method=method, min_area=0, seed_distance=1, min_contrast=0)
    for plane in labels:
        first = [np.flatnonzero(plane == label)[0] for label in range(1, plane.max() + 1)]
        assert first == sorted(first)


def test_float_images_are_segmented_like_integers() -> None:
    stack = disks([(30, 30), (60, 50), (60, 65)])
    assert segment_nuclei((stack / 65535).astype(np.float32))[1].max() == segment_nuclei(stack)[1].max() == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sigma": -1}, "sigma is -1"),
        ({"method": "yen"}, "method is 'yen'"),
        ({"min_area": 10, "max_area": 5}, "max_area is 5"),
        ({"seed_distance": 0}, "seed_distance is 0"),
    ],
)
def test_parameters_that_do_not_fit_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        segment_nuclei(np.ones((1, 8, 8), np.uint16), **params)


def test_nan_is_an_error() -> None:
    with pytest.raises(UsageError, match="segment_nuclei: 4 of 4 pixels are NaN"):
        segment_nuclei(np.full((1, 2, 2), np.nan))
