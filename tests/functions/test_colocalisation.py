"""Colocalisation, held to scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import filters, measure

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import colocalisation
from tests.functions.images import quick, read_only, stacks
from tests.functions.test_measurement import HERE, blobs


def two_channels(dtype: str = "uint16") -> NDArray[Any]:
    rng = np.random.default_rng(6)
    first = rng.gamma(2, 300, (60, 60))
    second = 0.5 * first + rng.gamma(2, 200, (60, 60))
    return read_only(np.stack([first, second]).clip(0, 65535).astype(dtype))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("whole", [True, False])
def test_coefficients_are_those_of_scikit_image(dtype: str, whole: bool) -> None:
    stack = two_channels("uint16")
    stack = (stack // 16).clip(0, 255).astype(dtype) if dtype == "uint8" else stack.astype(dtype)
    labels = np.full((60, 60), 0, np.int32) if whole else blobs()
    table = colocalisation(stack, None if whole else read_only(labels), context=HERE)
    assert table["label"].tolist() == ([0] if whole else [1, 2, 3, 4, 5])
    one, other = stack.astype(np.float64)
    bright = [plane > filters.threshold_otsu(plane) for plane in stack]
    for row in table.itertuples():
        mask = labels == row.label
        assert row.pixels == mask.sum()
        assert row.pearson_DAPI_GFP == pytest.approx(measure.pearson_corr_coeff(one, other, mask)[0], abs=1e-9)
        assert row.overlap_DAPI_GFP == pytest.approx(measure.manders_overlap_coeff(one, other, mask), abs=1e-9)
        assert row.manders_DAPI_GFP == pytest.approx(measure.manders_coloc_coeff(one, bright[1], mask), abs=1e-9)
        assert row.manders_GFP_DAPI == pytest.approx(measure.manders_coloc_coeff(other, bright[0], mask), abs=1e-9)


def test_every_two_channels_are_compared() -> None:
    stack = np.concatenate([two_channels(), two_channels()[:1]])
    table = colocalisation(stack)
    assert [name for name in table.columns if name.startswith("pearson")] == [
        "pearson_0_1",
        "pearson_0_2",
        "pearson_1_2",
    ]
    assert table.loc[0, "pearson_0_2"] == pytest.approx(1)


def test_labels_may_be_large_and_have_gaps() -> None:
    labels = np.zeros((60, 60), dtype=np.int64)
    labels[2:9, 2:9] = 3_000_000_000
    labels[20:30, 10:30] = 12
    assert colocalisation(two_channels(), labels)["label"].tolist() == [12, 3_000_000_000]


def test_without_objects_there_are_no_rows() -> None:
    stack = two_channels()
    none = colocalisation(stack, np.zeros((60, 60), np.int32))
    assert len(none) == 0
    assert list(none.dtypes) == list(colocalisation(stack).dtypes)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_constant_channel_is_not_correlated_with_anything(dtype: str) -> None:
    stack = np.stack([two_channels()[0], np.full((60, 60), 1234.1)]).astype(dtype)
    table = colocalisation(stack, blobs())
    assert table["pearson_0_1"].isna().all()
    assert (table["manders_0_1"] == 0).all()


@quick
@given(stacks(("uint8", "uint16")), st.floats(0, 300))
def test_any_coefficients_are_within_their_range(stack: NDArray[Any], limit: float) -> None:
    table = colocalisation(np.concatenate([stack, stack[::-1]]), method=limit)
    for name in table.columns[2:]:
        value = table.loc[0, name]
        assert np.isnan(value) or -1 - 1e-9 <= value <= 1 + 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack: colocalisation(stack[:1]), "one channel"),
        (lambda stack: colocalisation(-stack.astype(float)), "negative"),
        (lambda stack: colocalisation(stack, method="yen"), "method is 'yen'"),
        (lambda stack: colocalisation(stack, np.ones((3, 3), int)), "colocalisation: labels have the shape"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((2, 8, 8), np.uint16))
