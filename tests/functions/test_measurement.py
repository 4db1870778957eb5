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
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import regionprops

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import count_objects, measure_objects, well_medians, well_summary
from openhcs_jupyter.pipeline import Context
from tests.functions.images import quick, read_only

FEATURES = ("contrast", "correlation", "homogeneity", "energy", "entropy")
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
    expect_as_regionprops(measure_objects(stack, read_only(labels), context=HERE), labels, stack)


@quick
@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)))
def test_any_labels_are_measured_as_by_scikit_image(labels: NDArray[np.int32]) -> None:
    stack = np.random.default_rng(1).integers(0, 65535, (2, *labels.shape)).astype(np.uint16)
    table = measure_objects(stack, labels, context=HERE)
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
    table = measure_objects(stack, labels, context=HERE)
    np.testing.assert_allclose(table["area_um2"], table["area"] * 0.25)
    assert "area_um2" not in measure_objects(stack, labels, context=HERE._replace(pixel_size_um=None))


def test_without_objects_the_columns_and_types_are_the_same() -> None:
    labels = blobs()
    stack = np.ones((2, *labels.shape), np.uint16)
    some, none = (
        measure_objects(stack, labels, context=HERE),
        measure_objects(stack, np.zeros_like(labels), context=HERE),
    )
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


def expected_texture(plane: NDArray[Any], mask: NDArray[np.bool_], distance: int) -> dict[str, float]:
    """What scikit-image finds of the pairs within an object, in 32 levels between its least and greatest value."""
    values = plane[mask].astype(np.float64)
    low, high = values.min(), values.max()
    levels = np.floor((plane - low) * 32 / (high - low)).clip(0, 31).astype(int) + 1
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    pairs = graycomatrix(np.where(mask, levels, 0).astype(np.uint8), [distance], angles, 33, symmetric=True)
    pairs = pairs[1:, 1:].astype(np.float64)
    pairs /= pairs.sum(axis=(0, 1))
    return {what: graycoprops(pairs, what).mean() for what in FEATURES}


@pytest.mark.parametrize("distance", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_texture_is_that_of_scikit_image_within_each_object(distance: int, dtype: str) -> None:
    labels = np.zeros((60, 70), np.int32)
    y, x = np.indices(labels.shape)
    for number, (cy, cx, radius) in enumerate([(15, 15, 12), (30, 50, 14), (48, 12, 9)], 1):
        labels[np.hypot(y - cy, x - cx) < radius] = number
    rng = np.random.default_rng(3)
    plane = (100 + 60 * np.sin(x / 3) * np.cos(y / 5) + rng.normal(0, 15, labels.shape)).clip(0, 250).astype(dtype)
    table = measure_objects(read_only(plane[None]), labels, texture=distance).set_index("label")
    for number in (1, 2, 3):
        for what, value in expected_texture(plane, labels == number, distance).items():
            assert table.loc[number, f"{what}_0"] == pytest.approx(value, rel=1e-3)


def test_texture_does_not_depend_on_brightness_and_of_one_pixel_is_not_defined() -> None:
    labels = blobs()
    labels[:] = np.where(labels > 0, labels, 0)
    plane = np.random.default_rng(2).uniform(0, 100, labels.shape)
    one, other = (measure_objects(stack[None], labels, texture=1) for stack in (plane, 40 * plane + 1000))
    for what in FEATURES:
        np.testing.assert_allclose(one[f"{what}_0"], other[f"{what}_0"], rtol=1e-6)
    single = np.zeros((5, 5), np.int32)
    single[2, 2] = 1
    assert measure_objects(np.ones((1, 5, 5)), single, texture=1)["contrast_0"].isna().all()


@quick
@given(
    hnp.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)),
    st.sampled_from([1.0, 1.5, 2.0, 3.7]),
)
def test_neighbours_are_those_within_reach(labels: NDArray[np.int32], reach: float) -> None:
    table = measure_objects(np.ones((1, *labels.shape)), read_only(labels), neighbours=reach).set_index("label")
    for number in np.unique(labels[labels > 0]):
        distance = ndimage.distance_transform_edt(labels != number)
        others = set(np.unique(labels[distance <= reach])) - {0, number}
        assert table.loc[number, "neighbours"] == len(others)


def test_the_nearest_other_object_is_told() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[2, 2], labels[2, 12], labels[2, 15] = 1, 2, 3
    table = measure_objects(np.ones((1, 30, 30)), labels, neighbours=5)
    assert table["nearest"].tolist() == [10, 3, 3]
    assert table["neighbours"].tolist() == [0, 1, 1]
    alone = measure_objects(np.ones((1, 30, 30)), (labels == 1).astype(np.int32), neighbours=5)
    assert alone["nearest"].isna().all()


def test_wells_get_the_statistics_that_are_asked_for() -> None:
    wells = well_summary(objects(), ["mean", "std", "q75", "sum"])
    groups = objects().groupby("well")["area"]
    assert wells["objects"].tolist() == [3, 2]
    np.testing.assert_allclose(wells["area_mean"], groups.mean())
    np.testing.assert_allclose(wells["area_std"], groups.std())
    np.testing.assert_allclose(wells["area_q75"], groups.quantile(0.75))
    np.testing.assert_allclose(wells["mean_GFP_sum"], [9, 6])
    empty = well_summary(objects().iloc[:0], context=HERE)
    assert empty.loc[0, ["well", "objects"]].tolist() == ["A01", 0]
    with pytest.raises(UsageError, match="statistics is"):
        well_summary(objects(), ["mode"])
