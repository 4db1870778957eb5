"""Neurites, held to lines of known length and to the truth of a synthetic plate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from skimage.filters import sato
from skimage.morphology import skeletonize

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import grow_labels, measure_neurites, segment_nuclei, trace_neurites
from openhcs_jupyter.functions.neurites import ridges
from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate, true_neurites, write_plate
from tests.functions.test_measurement import HERE


def lines(*ends: tuple[tuple[float, float], tuple[float, float]], size: int = 200, noise: float = 5.0) -> NDArray[Any]:
    """One plane ``(1, Y, X)`` with soft lines from point to point."""
    y, x = np.indices((size, size)).astype(float)
    plane = np.full((size, size), 100.0)
    for (y0, x0), (y1, x1) in ends:
        length = np.hypot(y1 - y0, x1 - x0)
        along = np.clip(((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length**2, 0, 1)
        distance = np.hypot(y - y0 - along * (y1 - y0), x - x0 - along * (x1 - x0))
        plane = np.maximum(plane, 100 + 200 * np.exp(-((distance / 1.5) ** 2) / 2))
    plane += np.random.default_rng(1).normal(0, noise, plane.shape)
    return plane.round().astype(np.uint16)[None]


@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_a_line_has_its_length(degrees: int) -> None:
    angle = np.radians(degrees + 4)
    end = (100 + 70 * np.sin(angle), 100 + 70 * np.cos(angle))
    begin = (100 - 70 * np.sin(angle), 100 - 70 * np.cos(angle))
    _, labels, table = trace_neurites(lines((begin, end)), context=HERE)
    assert len(table) == 1
    assert table.loc[0, "length"] == pytest.approx(140, rel=0.05)
    assert table.loc[0, "length_um"] == pytest.approx(70, rel=0.05)
    assert table.loc[0, "ends"] == 2
    found = sorted([(table.loc[0, f"y_{at}"], table.loc[0, f"x_{at}"]) for at in ("start", "end")])
    for point, expected in zip(found, sorted([begin, end]), strict=True):
        assert np.hypot(*np.subtract(point, expected)) < 4
    assert labels.dtype == np.int32
    assert set(np.unique(labels)) == {0, 1}


def test_a_fork_has_three_branches_and_three_free_ends() -> None:
    fork = lines(((100, 20), (100, 100)), ((100, 100), (50, 160)), ((100, 100), (150, 160)))
    _, labels, table = trace_neurites(fork)
    assert len(table) == 3
    assert set(table["tree"]) == {1}
    assert table["ends"].tolist() == [1, 1, 1]
    assert sorted(table["length"]) == pytest.approx([78, 78, 80], abs=6)
    assert labels.max() == 3


def test_short_side_branches_and_short_lines_are_left_out() -> None:
    plane = lines(((100, 20), (100, 180)), ((100, 90), (94, 92)), ((30, 30), (30, 38)))
    _, _, table = trace_neurites(plane, min_branch=10, min_length=20)
    assert len(table) == 1
    assert table.loc[0, "length"] == pytest.approx(160, rel=0.05)


def test_neurites_belong_to_the_cell_that_they_leave() -> None:
    plane = lines(((60, 60), (60, 170)), ((140, 140), (140, 30)), ((185, 20), (185, 90)))
    labels = np.zeros(plane.shape[1:], np.int32)
    y, x = np.indices(labels.shape)
    for number, (cy, cx) in ((5, (60, 60)), (9, (140, 140))):
        inside = np.hypot(y - cy, x - cx) < 14
        labels[inside] = number
        plane[0][inside] = 500
    _, _, table = trace_neurites(plane, labels, context=HERE)
    assert sorted(table["cell"]) == [0, 5, 9]
    by_cell = table.set_index("cell")
    assert by_cell.loc[5, "length"] == pytest.approx(96, rel=0.07)
    assert by_cell.loc[9, "length"] == pytest.approx(96, rel=0.07)
    assert by_cell["ends"].to_dict() == {0: 2, 5: 1, 9: 1}
    cells = measure_neurites(table.assign(well="A01", field=1)).set_index("cell")
    assert cells["branches"].tolist() == [1, 1, 1]
    assert cells.loc[5, "longest_um"] == pytest.approx(by_cell.loc[5, "length_um"])


def test_a_cell_that_no_neurite_reaches_has_no_part_in_any() -> None:
    plane = lines(((60, 60), (60, 170)))
    labels = np.zeros(plane.shape[1:], np.int32)
    labels[150:170, 20:40] = 3
    assert trace_neurites(plane, labels)[2]["cell"].tolist() == [0]


def test_noise_and_empty_planes_have_no_neurites() -> None:
    noise = np.random.default_rng(2).normal(100, 10, (1, 200, 200)).astype(np.float32)
    for plane in (noise, np.zeros((1, 50, 50), np.uint16), np.full((1, 2, 2), 7, np.uint8)):
        _, labels, table = trace_neurites(plane)
        assert not labels.any()
        assert len(table) == 0
    assert list(table.columns) == list(trace_neurites(lines(((9, 9), (9, 90))))[2].columns)


def test_planes_of_a_stack_are_told_apart() -> None:
    two = np.concatenate([lines(((100, 20), (100, 180))), lines(((20, 20), (180, 180)))])
    _, labels, table = trace_neurites(two)
    assert table["plane"].tolist() == [1, 2]
    assert labels.shape == two.shape


def test_the_filter_is_that_of_scikit_image() -> None:
    plane = lines(((100, 20), (100, 180)), ((20, 20), (180, 150)))[0].astype(np.float64)
    expected = sato(plane, sigmas=[2], black_ridges=False)
    inner = np.s_[16:-16, 16:-16]
    found = np.maximum(ridges(plane, 2)[0], 0)
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3 * expected.max())


def test_what_is_traced_is_a_skeleton() -> None:
    _, labels, _ = trace_neurites(lines(((100, 20), (100, 180)), ((20, 60), (180, 150))))
    mask = labels[0] > 0
    assert mask.sum() == skeletonize(mask).sum()
    assert cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] == 2


def test_the_truth_of_a_plate_is_found(tmp_path: Path) -> None:
    spec = SyntheticPlate(
        name="Grown", rows=1, columns=3, grid=(1, 1), slices=1, size=700, cells_per_field=18, touching=0, neurites=2
    )
    folder = write_plate(tmp_path / "plate", spec)
    ratios, found_means = [], []
    for well in spec.wells:
        dapi, gfp = (tifffile.imread(next(folder.rglob(f"*_{well}_s1_w{channel}*.tif")))[None] for channel in (1, 2))
        cells = grow_labels(dapi, segment_nuclei(dapi)[1], 8)
        _, _, branches = trace_neurites(gfp, cells)
        truth = true_neurites(spec, well)["inside"].sum()
        ratios.append(branches["length"].sum() / truth)
        found_means.append(branches[branches["cell"] > 0]["length"].sum() / branches["length"].sum())
    assert ratios[1:] == pytest.approx([1, 1], abs=0.15)
    assert min(found_means[1:]) > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "radius is 0"),
        ({"cells": np.zeros((3, 3), int)}, "cells have the shape"),
        ({"min_length": -1}, "min_length"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trace_neurites(np.ones((1, 8, 8), np.uint16), **options)


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="no column 'cell'"):
        measure_neurites(pd.DataFrame({"length": [1]}))
