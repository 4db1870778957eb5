"""Stitching, held to fields cut from a known scene at known places, and to a plate whose stage positions are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import field_positions, stitch
from openhcs_jupyter.pipeline import Context
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate, true_signal, write_plate
from openhcs_jupyter.repository.embedded.synthetic.files import stage_errors_um

SIZE = 200
TRUE = np.array([[0, 0], [1.5, 161.25], [158.0, -2.75], [160.6, 159.0]])
STAGE = np.array([[0, 0], [0, 160], [160, 0], [160, 160]]) + np.random.default_rng(1).normal(0, 4, (4, 2))


def at(places: NDArray[Any], pixel_um: float = 0.5) -> Context:
    return Context(
        plate="P",
        well="A01",
        field=None,
        channel="DAPI",
        channels=("DAPI",),
        t=0,
        z=(0,),
        pixel_size_um=pixel_um,
        z_step_um=None,
        positions_um=tuple((float(y) * pixel_um, float(x) * pixel_um) for y, x in places),
        fields=tuple(range(1, len(places) + 1)),
    )


def fields(noise: float = 20.0, places: NDArray[Any] = TRUE) -> NDArray[np.uint16]:
    """Views of one scene, each under noise of its own."""
    rng = np.random.default_rng(11)
    spots = rng.uniform((-10, -10, 2, 300), (380, 380, 6, 2000), (200, 4))
    stack = np.full((len(places), SIZE, SIZE), 300.0)
    rows, columns = np.indices((SIZE, SIZE))
    for plane, (y, x) in zip(stack, places, strict=True):
        for cy, cx, width, height in spots:
            plane += height * np.exp(-((rows - cy + y) ** 2 + (columns - cx + x) ** 2) / (2 * width**2))
        plane += rng.normal(0, noise, plane.shape)
    return stack.round().clip(0, 65535).astype(np.uint16)


def errors(found: pd.DataFrame, true: NDArray[Any]) -> NDArray[np.float64]:
    """Distances of fields from their true places, but for where the mosaic starts."""
    away = found[["y", "x"]].to_numpy() - true
    return np.hypot(*(away - away.mean(axis=0)).T)


@pytest.mark.parametrize(("noise", "within"), [(5.0, 0.05), (50.0, 0.1), (200.0, 0.3)])
def test_overlaps_tell_where_fields_lie(noise: float, within: float) -> None:
    found = field_positions(fields(noise), context=at(STAGE))
    assert errors(found, TRUE).max() < within
    assert list(found["field"]) == [1, 2, 3, 4]
    assert list(found["links"]) == [2, 2, 2, 2]
    assert found[["y", "x"]].min().tolist() == [0, 0]


def test_without_refinement_the_stage_is_kept() -> None:
    found = field_positions(fields(), refine=False, context=at(STAGE))
    np.testing.assert_allclose(found[["y", "x"]], STAGE - STAGE.min(axis=0))
    assert found["links"].sum() == 0


def test_a_grid_serves_where_no_stage_is_known() -> None:
    unknown = at(STAGE)._replace(positions_um=(None,) * 4)
    with pytest.raises(UsageError, match="field 1, 2, 3, 4 has no stage position"):
        field_positions(fields(), context=unknown)
    found = field_positions(fields(), grid=(2, 2), overlap=0.2, context=unknown)
    assert errors(found, TRUE).max() < 0.1


def test_empty_overlaps_leave_fields_where_the_stage_says() -> None:
    noise = np.random.default_rng(3).normal(300, 20, (4, SIZE, SIZE)).astype(np.uint16)
    found = field_positions(noise, context=at(STAGE))
    np.testing.assert_allclose(found[["y", "x"]], STAGE - STAGE.min(axis=0))
    assert found["links"].sum() == 0


def test_one_overlap_that_lies_is_outvoted() -> None:
    rows, columns = 3, 3
    places = np.array([[r * 160.0, c * 160.0] for r in range(rows) for c in range(columns)])
    stack = fields(20.0, places)
    # A smear on the lens shows at the same place of two neighbours.
    stack[4, 60:140, :40] += 30000
    stack[3, 60:140, -43:-3] += 30000
    assert errors(field_positions(stack, context=at(places)), places).max() < 0.5


def test_a_mosaic_is_the_scene() -> None:
    stack = fields(noise=0)
    positions = pd.DataFrame({"field": [1, 2, 3, 4], "y": TRUE[:, 0], "x": TRUE[:, 1] + 2.75})
    mosaic = stitch(stack, positions, trim=False, context=at(STAGE))
    whole = np.full((362, 366), 300.0)
    spots = np.random.default_rng(11).uniform((-10, -10, 2, 300), (380, 380, 6, 2000), (200, 4))
    rows, columns = np.indices(whole.shape)
    for cy, cx, width, height in spots:
        whole += height * np.exp(-((rows - cy) ** 2 + (columns - 2.75 - cx) ** 2) / (2 * width**2))
    assert mosaic.dtype == stack.dtype
    inner = np.s_[4:355, 4:355]
    # Linear interpolation flattens what is narrow.
    assert np.abs(mosaic[0][inner] - whole[inner]).max() < 0.05 * whole.max()
    assert np.abs(mosaic[0][inner] - whole[inner]).mean() < 0.002 * whole.max()


def test_a_field_alone_is_placed_as_scipy_shifts_it() -> None:
    stack = fields(noise=50)[:2]
    positions = pd.DataFrame({"y": [0.0, 0.25], "x": [0.0, 300.6]})
    mosaic = stitch(stack.astype(np.float64), positions, trim=False)[0]
    assert mosaic.shape == (201, 501)
    assert np.array_equal(mosaic[:200, :200], stack[0])
    expected = ndimage.shift(np.pad(stack[1].astype(np.float64), ((0, 1), (0, 1)), mode="edge"), (0.25, 0.6), order=1)
    np.testing.assert_allclose(mosaic[1:200, 301:500], expected[1:200, 1:200], rtol=1e-9)
    assert not mosaic[:, 200:300].any()


def test_without_blending_every_pixel_is_of_one_field() -> None:
    stack = np.stack([np.full((10, 10), 100, np.uint16), np.full((10, 10), 200, np.uint16)])
    positions = pd.DataFrame({"y": [0, 0], "x": [0, 6]})
    assert set(np.unique(stitch(stack, positions, blend="none"))) == {100, 200}
    linear = stitch(stack, positions)[0, 5]
    assert (np.diff(linear.astype(int)) >= 0).all()
    assert len(set(linear)) > 2


def test_the_ragged_border_is_left_out() -> None:
    stack = np.full((4, 40, 50), 700, np.uint16)
    positions = pd.DataFrame({"y": [0, 3.5, 30, 32], "x": [2, 40, 0, 38]})
    assert stitch(stack, positions, trim=False)[0].min() == 0
    mosaic = stitch(stack, positions)[0]
    assert mosaic.min() == 700
    assert mosaic.shape == (66, 86)


def test_fields_with_few_cells_are_not_joined_by_the_wrong_ones() -> None:
    spec = SyntheticPlate(
        name="Sparse", rows=1, columns=1, slices=1, size=400, cells_per_field=10, touching=0, stage_error_px=7, seed=0
    )
    for seed in range(8):
        one = msgspec.structs.replace(spec, seed=seed)
        stage = np.array([one.origin(field) for field in range(1, 5)]) + stage_errors_um(one, 0, 0) / one.pixel_size_um
        planes = [true_signal(one, "A01", field, "DAPI", 0) for field in range(1, 5)]
        noise = np.random.default_rng(seed).normal(160, 8, (4, 400, 400))
        stack = (np.stack(planes) + noise).clip(0, 65535).astype(np.uint16)
        found = field_positions(stack, context=at(stage))
        true = np.array([one.origin(field) for field in range(1, 5)], dtype=float)
        by_stage = np.hypot(*((stage - true) - (stage - true).mean(axis=0)).T).max()
        told = found["links"] > 0
        assert errors(found, true).max() < (0.5 if told.all() and found["links"].sum() >= 6 else by_stage + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: stitch(s, pd.DataFrame({"a": [1]})), "no column 'y'"),
        (lambda s: stitch(s, pd.DataFrame({"y": [0.0], "x": [0.0]})), "1 positions for 2 fields"),
        (lambda s: stitch(s, pd.DataFrame({"field": [1, 3], "y": [0, 0], "x": [0, 9]})), "no position of field 2"),
        (lambda s: stitch(s, pd.DataFrame({"y": [0, 9e5], "x": [0, 0]})), "too far apart|would have"),
        (lambda s: stitch(s, pd.DataFrame({"y": [0, np.nan], "x": [0, 0]})), "NaN"),
        (lambda s: field_positions(s), "no stage position"),
        (lambda s: field_positions(s, grid=(1, 1)), "too small for 2 fields"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((2, 20, 20), np.uint16))


def test_wells_of_a_plate_are_stitched_in_a_run(tmp_path: Path) -> None:
    from openhcs_jupyter.compiler import compile
    from openhcs_jupyter.engine import run
    from openhcs_jupyter.functions import max_projection, segment_nuclei
    from openhcs_jupyter.pipeline import Labels, Pipeline, Step, Table
    from openhcs_jupyter.topology import discover

    spec = SyntheticPlate(
        name="Off", rows=1, columns=2, slices=2, size=300, cells_per_field=20, overlap=0.15, stage_error_px=4
    )
    write_plate(tmp_path / "plate", spec)
    repository = EmbeddedRepository(tmp_path / "repository")
    plate = repository.plate(repository.import_plate(tmp_path / "plate").id)
    steps = [
        Step(max_projection),
        Step(field_positions, channel="DAPI", outputs=Table("positions")),
        Step(stitch, inputs={"positions": "positions"}, save=True),
        Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    ]
    done = run(compile(Pipeline(steps, "stitch"), plate, discover(), workers=2)).result()
    positions = done.table("positions")
    for well in spec.wells:
        origins = np.array([spec.origin(field) for field in range(1, 5)], dtype=np.float64)
        own = positions[positions["well"] == well]
        stage = own[["stage_y", "stage_x"]].to_numpy()
        assert np.hypot(*(stage - origins - (stage - origins).mean(axis=0)).T).max() > 1
        assert errors(own, origins).max() < 0.5
        mosaic = done.image("stitch", well=well)
        assert mosaic.shape[:3] == (1, 2, 1)
        assert np.abs(np.subtract(mosaic.shape[3:], spec.mosaic)).max() <= 2
        assert done.labels("nuclei", well=well).max() == pytest.approx(spec.counts[1], rel=0.15)
