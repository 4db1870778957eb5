"""Masks, labels and contrast, held to scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.exposure import equalize_hist
from skimage.measure import block_reduce, label
from skimage.segmentation import expand_labels

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import (
    bin_pixels,
    equalize_histogram,
    grow_labels,
    label_objects,
    mask_with,
    side_projection,
)
from tests.functions.images import quick, read_only, stacks

MASKS = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)
)


@quick
@given(MASKS)
def test_objects_are_numbered_as_by_scikit_image(mask: NDArray[np.uint8]) -> None:
    stack, labels = label_objects(read_only(mask))
    assert stack is mask
    for plane, found in zip(mask, labels, strict=True):
        assert np.array_equal(found, label(plane))


def test_objects_may_be_filled_and_chosen_by_size() -> None:
    mask = np.zeros((1, 20, 20), np.uint8)
    mask[0, 2:9, 2:9] = 1
    mask[0, 5, 5] = 0
    mask[0, 12:14, 12:14] = 1
    assert (label_objects(mask)[1] > 0).sum() == 52
    assert (label_objects(mask, fill=True)[1] > 0).sum() == 53
    assert label_objects(mask, min_area=10)[1].max() == 1
    assert label_objects(mask, max_area=10)[1][0, 12, 12] == 1


@quick
@given(stacks())
def test_pixels_outside_are_set(stack: NDArray[Any]) -> None:
    labels = (np.indices(stack.shape[1:]).sum(axis=0) % 3 == 0).astype(np.int32)
    out = mask_with(stack, labels, outside=7)
    assert out.dtype == stack.dtype
    assert np.array_equal(out, np.where(labels > 0, stack, stack.dtype.type(7)))
    assert np.array_equal(mask_with(stack, labels, 7, invert=True), np.where(labels > 0, stack.dtype.type(7), stack))


def test_a_value_outside_must_fit_the_type() -> None:
    with pytest.raises(UsageError, match="outside is -1"):
        mask_with(np.ones((1, 4, 4), np.uint8), np.ones((4, 4), np.int32), outside=-1)


def test_labels_grow_as_by_scikit_image() -> None:
    labels = np.zeros((200, 220), np.int32)
    rng = np.random.default_rng(4)
    y, x = np.indices(labels.shape)
    for number, (cy, cx) in enumerate(rng.uniform(0, 200, (30, 2)), 1):
        labels[np.hypot(y - cy, x - cx) < 6] = number
    grown = grow_labels(np.zeros((2, *labels.shape)), read_only(labels), 9.5)
    expected = expand_labels(labels, 9.5)
    assert np.array_equal(grown > 0, expected > 0)
    assert (grown != expected).mean() < 0.005
    assert np.array_equal(grown[labels > 0], labels[labels > 0])
    assert not grow_labels(np.zeros((1, 5, 5)), np.zeros((5, 5), np.int32)).any()
    assert np.array_equal(grow_labels(np.zeros((1, 5, 5)), np.ones((5, 5), np.int32)), np.ones((5, 5)))


@quick
@given(stacks(("uint8", "uint16")), st.sampled_from(["stack", "plane"]))
def test_histograms_are_equalized_as_by_scikit_image(stack: NDArray[Any], per: Any) -> None:
    top = np.iinfo(stack.dtype).max
    for found, plane in zip(
        equalize_histogram(stack, per), stack if per == "plane" else [stack] * len(stack), strict=True
    ):
        values = (plane[..., None] >= np.unique(plane)).sum(-1)
        share = np.searchsorted(np.sort(plane.ravel()), plane.ravel(), side="right").reshape(plane.shape) / plane.size
        expected = share if per == "plane" else share[0]
        if per == "plane":
            np.testing.assert_allclose(found, expected * top, atol=0.51)
        assert values.size


def test_floats_are_equalized_to_their_share() -> None:
    stack = np.random.default_rng(1).normal(0, 5, (2, 64, 64)).astype(np.float32)
    found = equalize_histogram(stack)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, equalize_hist(stack, nbins=65536), atol=1e-3)


@quick
@given(
    stacks(("uint8", "uint16", "int16", "float32")), st.integers(1, 3), st.sampled_from(["mean", "sum", "max", "min"])
)
def test_pixels_are_binned_as_by_scikit_image(stack: NDArray[Any], factor: int, method: Any) -> None:
    height, width = (side // factor for side in stack.shape[1:])
    if not height or not width:
        with pytest.raises(UsageError, match="factor"):
            bin_pixels(stack, factor, method)
        return
    found = bin_pixels(stack, factor, method)
    whole = stack[:, : height * factor, : width * factor].astype(np.float64)
    expected = block_reduce(whole, (1, factor, factor), getattr(np, method))
    assert found.dtype == stack.dtype
    if stack.dtype.kind in "iu":
        limits = np.iinfo(stack.dtype)
        expected = expected.clip(limits.min, limits.max)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0.5 if stack.dtype.kind in "iu" else 1e-6)


def test_blocks_of_pixels_have_whole_sides() -> None:
    with pytest.raises(UsageError, match=r"factor is 2\.5; it must be a whole number"):
        bin_pixels(np.zeros((1, 10, 10), np.uint8), 2.5)  # type: ignore[arg-type]  # wrong on purpose


def test_a_stack_is_seen_from_its_side() -> None:
    stack = np.random.default_rng(1).integers(0, 255, (3, 5, 7)).astype(np.uint8)
    assert np.array_equal(side_projection(stack), stack.max(axis=1)[None])
    assert np.array_equal(side_projection(stack, "x"), stack.max(axis=2)[None])
    with pytest.raises(UsageError, match="along is 'z'"):
        side_projection(stack, "z")  # type: ignore[arg-type]  # wrong on purpose
