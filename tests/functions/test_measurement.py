"""Measurement and counting of objects, held to scikit-image; medians of wells, held to pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.measure import regionprops

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import count_objects, measure_objects, well_medians
from openhcs_jupyter.pipeline import Context
from tests.functions.images import quick, read_only

HERE = Context(
    plate="P",
    well="A01",
    field=1,
    channel=None,
    channels=("DAPI", "GFP"),
    t=0,
    z=(0,),
    pixel_size_um=0.5,
    z_step_um=None,
    positions_um=(None,),
)


def blobs(seed: int = 0, size: int = 60) -> NDArray[np.int32]:
    """Labels that touch each other and the border."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, (size // 6, size // 6))
    labels = np.kron(coarse, np.ones((6, 6), dtype=np.int64))
    labels[rng.random(labels.shape) < 0.1] = 0
    return labels.astype(np.int32)


def expect_as_regionprops(table: pd.DataFrame, labels: NDArray[Any], stack: NDArray[Any]) -> None:
    regions = regionprops(labels, np.moveaxis(stack.astype(np.float64), 0, -1))
    assert list(table["label"]) == [region.label for region in regions]
    for row, region in zip(table.itertuples(), regions, strict=True):
        assert (row.y, row.x) == pytest.approx(region.centroid)
        assert row.area == region.area
        assert (row.y_min, row.x_min, row.y_max, row.x_max) == region.bbox
        assert row.perimeter == pytest.approx(region.perimeter)
        assert row.major_axis == pytest.approx(region.axis_major_length, abs=1e-5)
        assert row.minor_axis == pytest.approx(region.axis_minor_length, abs=1e-5)
        assert row.eccentricity == pytest.approx(region.eccentricity, abs=1e-5)
        if row.eccentricity > 0.01:
            # An axis has no direction: angles half a turn apart are the same.
            assert np.sin(row.orientation - region.orientation) == pytest.approx(0, abs=1e-6)
        assert row.mean_DAPI == pytest.approx(region.intensity_mean[0])
        assert row.mean_GFP == pytest.approx(region.intensity_mean[1])
        pixels = stack[1][labels == region.label].astype(np.float64)
        assert row.std_GFP == pytest.approx(pixels.std(), abs=1e-6)
        assert (row.min_GFP, row.max_GFP) == (pixels.min(), pixels.max())
        assert row.sum_GFP == pytest.approx(pixels.sum())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_objects_are_measured_as_by_scikit_image(dtype: str) -> None:
    labels = blobs()
    stack = read_only(np.random.default_rng(1).uniform(0, 250, (2, *labels.shape)).astype(dtype))
    expect_as_regionprops(measure_objects(stack, read_only(labels), HERE), labels, stack)


@quick
@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)))
def test_any_labels_are_measured_as_by_scikit_image(labels: NDArray[np.int32]) -> None:
    stack = np.random.default_rng(1).integers(0, 65535, (2, *labels.shape)).astype(np.uint16)
    table = measure_objects(stack, labels, HERE)
    counts = np.bincount(labels.ravel(), minlength=4)[1:]
    assert list(table["area"]) == [count for count in counts if count]
    if labels.any() and counts.max() > 0:
        expect_as_regionprops(table, labels, stack)


def test_labels_may_be_large_and_have_gaps() -> None:
    labels = np.zeros((20, 20), dtype=np.int64)
    labels[2:5, 2:5] = 3_000_000_000
    labels[10:12, 10:14] = 12
    table = measure_objects(np.ones((1, 20, 20), np.uint16), labels[None])
    assert list(table["label"]) == [12, 3_000_000_000]
    assert list(table["area"]) == [8, 9]


def test_a_known_pixel_size_gives_square_micrometres() -> None:
    labels = blobs()
    stack = np.ones((2, *labels.shape), np.uint16)
    table = measure_objects(stack, labels, HERE)
    np.testing.assert_allclose(table["area_um2"], table["area"] * 0.25)
    assert "area_um2" not in measure_objects(stack, labels, HERE._replace(pixel_size_um=None))


def test_without_objects_the_columns_and_types_are_the_same() -> None:
    labels = blobs()
    stack = np.ones((2, *labels.shape), np.uint16)
    some, none = measure_objects(stack, labels, HERE), measure_objects(stack, np.zeros_like(labels), HERE)
    assert len(none) == 0
    pd.testing.assert_series_equal(some.dtypes, none.dtypes)


def test_without_context_channels_are_numbered() -> None:
    table = measure_objects(np.ones((2, 60, 60), np.uint16), blobs())
    assert {"mean_0", "mean_1"} <= set(table.columns)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 3), np.int32), "labels have the shape"),
        (np.zeros((2, 4, 4), np.int32), "labels have the shape"),
        (np.zeros((4, 4), np.float32), "must be integers"),
        (np.full((4, 4), -1), "negative"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: NDArray[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure_objects(np.ones((1, 4, 4), np.uint16), labels)


def objects() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "plate": ["P"] * 5,
            "well": ["B02", "A01", "A01", "A01", "B02"],
            "field": [1, 1, 1, 2, 1],
            "label": [1, 1, 2, 1, 2],
            "area": [10, 1, 2, 6, 30],
            "mean_GFP": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )


def test_wells_get_their_count_and_medians() -> None:
    wells = well_medians(objects())
    assert wells.to_dict("list") == {
        "plate": ["P", "P"],
        "well": ["A01", "B02"],
        "objects": [3, 2],
        "area": [2.0, 20.0],
        "mean_GFP": [3.0, 3.0],
    }


def test_a_well_without_objects_counts_0() -> None:
    wells = well_medians(objects().iloc[:0], HERE)
    assert wells.loc[0, "well"] == "A01"
    assert wells.loc[0, "objects"] == 0
    assert wells["area"].isna().all()
    assert list(wells.columns) == list(well_medians(objects()).columns)


def test_a_table_without_wells_is_refused() -> None:
    with pytest.raises(UsageError, match="no column 'well'"):
        well_medians(pd.DataFrame({"area": [1, 2]}))


@quick
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from([0, 1, 2, 9])))
def test_objects_are_counted(labels: NDArray[np.uint8]) -> None:
    counted = count_objects(np.ones((2, *labels.shape), np.uint16), read_only(labels))
    assert counted["objects"] == len(set(labels.ravel().tolist()) - {0})
    assert counted["covered"] == pytest.approx((labels > 0).mean())


def test_labels_of_another_size_are_not_counted() -> None:
    with pytest.raises(UsageError, match="count_objects: labels have the shape"):
        count_objects(np.ones((1, 4, 4), np.uint16), np.ones((3, 3), np.int32))
