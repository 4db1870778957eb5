"""Cells around nuclei and their cytoplasm, held to scikit-image and to cells whose places are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage import filters, segmentation

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import cytoplasm, segment_cells
from tests.functions.images import disks, quick, read_only, stacks

CENTRES = [(30.0, 40.0), (90.0, 50.0), (90.0, 84.0)]


def nuclei(numbers: tuple[int, ...] = (1, 2, 3)) -> NDArray[np.int32]:
    """Small disks in the middle of the cells."""
    y, x = np.indices((128, 128))
    labels = np.zeros((1, 128, 128), np.int32)
    for number, (cy, cx) in zip(numbers, CENTRES, strict=True):
        labels[0][np.hypot(y - cy, x - cx) <= 6] = number
    return read_only(labels)


def stained(noise: float = 10.0) -> NDArray[np.uint16]:
    """Cells that get weaker away from their middle; two of them touch."""
    y, x = np.indices((128, 128))
    plane = np.full((128, 128), 200.0)
    for cy, cx in CENTRES:
        plane = np.maximum(plane, 3200 - 100 * np.hypot(y - cy, x - cx))
    plane[plane < 1200] = 200
    plane += np.random.default_rng(3).normal(0, noise, plane.shape)
    return read_only(plane.round().clip(0, 65535).astype(np.uint16)[None])


def test_each_cell_has_the_number_of_its_nucleus() -> None:
    stack, cells = segment_cells(stained(), nuclei((5, 2, 9)))
    assert np.array_equal(stack, stained())
    assert cells.dtype == np.int32
    assert np.unique(cells).tolist() == [0, 2, 5, 9]
    y, x = np.indices((128, 128))
    own = np.hypot(y - 30, x - 40)
    assert (cells[0][own < 18] == 5).all()
    assert not (cells[0][own > 23] == 5).any()


def test_touching_cells_are_divided_where_the_stain_is_weakest() -> None:
    _, cells = segment_cells(stained(), nuclei())
    assert set(np.unique(cells[0, 85:96, 34:66])) == {2}
    assert set(np.unique(cells[0, 85:96, 69:101])) == {3}


def test_it_is_the_watershed_of_scikit_image() -> None:
    stack, seeds = stained(40), nuclei()
    smooth = filters.gaussian(stack[0].astype(np.float64), 1.0)
    mask = (smooth > filters.threshold_otsu(smooth.round().astype(np.uint16))) | (seeds[0] > 0)
    expected = segmentation.watershed(-smooth, seeds[0], mask=mask)
    _, cells = segment_cells(stack, seeds)
    # float32 may order or round a pixel otherwise than float64.
    assert (cells[0] != expected).mean() < 0.001


def test_cells_end_within_reach_of_their_nucleus() -> None:
    _, cells = segment_cells(stained(), nuclei(), reach=4)
    y, x = np.indices((128, 128))
    away = np.min([np.hypot(y - cy, x - cx) for cy, cx in CENTRES], axis=0)
    assert not cells[0][away > 11].any()
    assert (cells[0][away < 9] > 0).all()
    _, none = segment_cells(stained(), nuclei(), reach=0)
    assert np.array_equal(none, nuclei())


def test_a_nucleus_below_the_threshold_is_a_cell_and_a_cell_without_a_nucleus_is_none() -> None:
    seeds = np.zeros((128, 128), np.int64)
    seeds[100:110, 10:20] = 7
    _, cells = segment_cells(disks([(40, 40)], noise=0), seeds, sigma=0)
    assert np.array_equal(cells[0], seeds)


def test_without_nuclei_there_are_no_cells() -> None:
    assert not segment_cells(stained(), np.zeros((1, 128, 128), np.int32))[1].any()


def test_one_plane_of_nuclei_serves_all_planes() -> None:
    stack = np.concatenate([stained(), stained(40)])
    _, cells = segment_cells(stack, nuclei())
    for plane, found in zip(stack, cells, strict=True):
        assert np.array_equal(found, segment_cells(plane[None], nuclei())[1][0])


@quick
@given(stacks(("uint8", "uint16", "float32", "float64"), largest=16), st.data())
def test_every_cell_contains_its_nucleus(stack: NDArray[Any], data: st.DataObject) -> None:
    seeds = data.draw(hnp.arrays(np.int32, stack.shape, elements=st.integers(0, 3)))
    _, cells = segment_cells(stack, seeds)
    assert np.array_equal(cells[seeds > 0], seeds[seeds > 0])
    assert set(np.unique(cells)) <= {0, *np.unique(seeds)}


def test_the_cytoplasm_is_the_cell_without_nuclei() -> None:
    _, cells = segment_cells(stained(), nuclei())
    rest = cytoplasm(stained(), read_only(cells), nuclei())
    assert rest.shape == (128, 128)
    assert rest.dtype == np.int32
    assert np.array_equal(rest, np.where(nuclei()[0] > 0, 0, cells[0]))
    assert set(np.unique(rest)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack, seeds: segment_cells(stack, seeds[:, :4]), "nuclei have the shape"),
        (lambda stack, seeds: segment_cells(stack, seeds.astype(float)), "nuclei are float64"),
        (lambda stack, seeds: segment_cells(stack, seeds - 1), "nuclei go from -1"),
        (lambda stack, seeds: segment_cells(stack, seeds, method="yen"), "method is 'yen'"),
        (lambda stack, seeds: segment_cells(stack, seeds, reach=-1), "reach is -1"),
        (lambda stack, seeds: cytoplasm(stack, np.concatenate([seeds, seeds]), seeds), "cells have the shape"),
        (lambda stack, seeds: cytoplasm(stack, seeds, seeds[0, 0]), "nuclei have the shape"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((1, 8, 8), np.uint16), np.zeros((1, 8, 8), np.int32))
