"""Synthetic plates: what is written agrees with the truth, is always the same, and is read as an ImageXpress plate."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.functions import max_projection, measure_objects, segment_nuclei
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.synthetic import (
    DEMO,
    SyntheticPlate,
    Truth,
    true_cells,
    true_labels,
    true_neurites,
    true_signal,
    true_wells,
    write_plate,
)

SMALL = SyntheticPlate(name="Small", rows=1, columns=3, size=256, cells_per_field=12, overlap=0.2, seed=5)


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plate(tmp_path_factory.mktemp("synthetic") / "plate", SMALL)


def pixels(plate: Path, well: str, field: int, channel: int) -> NDArray[np.uint16]:
    """Return the slices of a field as ``(Z, Y, X)``."""
    slices = [
        next((plate / "TimePoint_1" / f"ZStep_{z + 1}").glob(f"*_{well}_s{field}_w{channel}*.tif"))
        for z in range(SMALL.slices)
    ]
    return np.stack([tifffile.imread(path) for path in slices])


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".parquet"
    }


def test_it_is_imported_as_an_imagexpress_plate(plate: Path, repository: EmbeddedRepository) -> None:
    repository.import_plate(plate)
    found = repository.plate("Small")
    assert [channel.name for channel in found.channels] == ["DAPI", "GFP"]
    assert [well.name for well in found.wells] == ["A01", "A02", "A03"]
    assert [len(well.fields) for well in found.wells] == [4, 4, 4]
    summary = repository.plates()[0]
    assert summary.planes == SMALL.planes == 3 * 4 * 2 * 3
    assert not summary.problems
    field = found.wells[1].fields[3]
    image = field.image("stack")
    assert image is not None
    assert (image.layout.pixel_size_um, image.layout.z_step_um) == (0.65, 4.0)
    with repository.open(image) as source:
        assert np.array_equal(source.plane(0, 1, 2), pixels(plate, "A02", 4, 2)[2])


def test_fields_lie_on_the_stage_as_they_overlap(plate: Path, repository: EmbeddedRepository) -> None:
    repository.import_plate(plate)
    first, right, below, _ = repository.plate("Small").wells[0].fields
    assert first.position_um is not None
    assert right.position_um is not None
    assert below.position_um is not None
    step = (SMALL.size - SMALL.overlap_px) * SMALL.pixel_size_um
    assert right.position_um[1] - first.position_um[1] == pytest.approx(step, abs=1e-3)
    assert below.position_um[0] - first.position_um[0] == pytest.approx(step, abs=1e-3)


@pytest.mark.parametrize("channel", ["DAPI", "GFP"])
def test_neighbouring_fields_show_the_same_cells_where_they_overlap(channel: str) -> None:
    part = SMALL.overlap_px
    assert part == 51
    for z in range(SMALL.slices):
        left, right, below = (true_signal(SMALL, "A02", field, channel, z) for field in (1, 2, 3))
        assert left[:, -part:].max() > 0
        assert np.array_equal(left[:, -part:], right[:, :part])
        assert np.array_equal(left[-part:], below[:part])


def test_pixels_are_the_cells_light_with_shading_and_noise(plate: Path) -> None:
    from openhcs_jupyter.repository.embedded.synthetic.truth import shade

    for channel, name in ((1, "DAPI"), (2, "GFP")):
        light = (true_signal(SMALL, "A03", 2, name, 1) + SMALL.background) * shade(SMALL, name)
        noise = pixels(plate, "A03", 2, channel)[1] - light - SMALL.offset
        spread = noise / np.sqrt(light * SMALL.gain + SMALL.read_noise**2)
        assert abs(spread.mean()) < 0.02
        assert spread.std() == pytest.approx(1, abs=0.02)
        corners = light[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.min() == pytest.approx(SMALL.background * (1 - SMALL.shading), rel=1e-3)


def test_slices_away_from_focus_are_blurred() -> None:
    middle, outer = (true_signal(SMALL, "A01", 1, "DAPI", z) for z in (1, 0))
    steepest = [np.abs(np.diff(plane, axis=1)).max() for plane in (middle, outer)]
    assert steepest[0] > 1.2 * steepest[1]


def test_labels_are_the_ellipses_of_the_table() -> None:
    labels = true_labels(SMALL, "A01", 4)
    cells = true_cells(SMALL, "A01").query("field == 4")
    assert set(np.unique(labels)) - {0} <= set(cells["cell"])
    apart = cells[cells["whole"] & ~cells["touching"]]
    table = measure_objects(np.zeros((1, *labels.shape), np.uint16), labels).set_index("label").loc[apart["cell"]]
    np.testing.assert_allclose(table[["y", "x"]], apart[["y", "x"]], atol=0.3)
    np.testing.assert_allclose(table["area"], np.pi * apart["major"].to_numpy() * apart["minor"].to_numpy(), rtol=0.06)
    np.testing.assert_allclose(table["major_axis"], 2 * apart["major"].to_numpy(), rtol=0.06)


def test_cells_touch_only_their_partners() -> None:
    spec = SyntheticPlate(rows=1, columns=1, grid=(1, 1), size=700, cells_per_field=100, touching=0.3)
    cells = true_cells(spec, "A01")
    assert len(cells) == 100
    assert cells["touching"].sum() == 30
    assert cells["whole"].all()
    near = cKDTree(cells[["y", "x"]]).query_pairs(2 * 1.5 * spec.nucleus_px * 0.8)
    paired = {cell for pair in near for cell in pair}
    assert set(np.flatnonzero(cells["touching"])) <= paired


def test_segmentation_finds_the_true_nuclei(plate: Path) -> None:
    found = true = missed = 0
    for well in SMALL.wells:
        cells = true_cells(SMALL, well)
        for field in range(1, SMALL.fields + 1):
            flat = max_projection(pixels(plate, well, field, 1))
            stack, labels = segment_nuclei(flat)
            table = measure_objects(stack, labels)
            whole = cells[(cells["field"] == field) & cells["whole"]]
            distance, _ = cKDTree(table[["y", "x"]]).query(whole[["y", "x"]])
            found += int((distance <= 2).sum())
            true += len(whole)
            missed += abs(len(table) - len(np.unique(true_labels(SMALL, well, field))) + 1)
    assert true > 100
    assert found >= 0.95 * true
    assert missed <= 0.05 * true


def test_gfp_follows_the_dose(plate: Path) -> None:
    wells = true_wells(SMALL)
    measured = []
    for well in wells["well"]:
        stack = pixels(plate, well, 1, 2)[1:2]
        table = measure_objects(stack, true_labels(SMALL, well, 1))
        measured.append(table["mean_0"].mean() - SMALL.offset - SMALL.background)
    np.testing.assert_allclose(measured, wells["response"], rtol=0.25)
    assert measured == sorted(measured)
    assert SMALL.response(SMALL.ec50_um) == pytest.approx((SMALL.response_bottom + SMALL.response_top) / 2)


def test_the_same_values_give_the_same_bytes(plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    again = write_plate(tmp_path / "again", SMALL)
    assert digest(again) == digest(plate)
    pd.testing.assert_frame_equal(
        pd.read_parquet(again / "truth" / "cells.parquet"), pd.read_parquet(plate / "truth" / "cells.parquet")
    )


def test_another_seed_gives_other_cells() -> None:
    import msgspec

    other = true_cells(msgspec.structs.replace(SMALL, seed=6), "A01")
    assert not np.isin(other["y"], true_cells(SMALL, "A01")["y"]).any()


def test_the_truth_lies_beside_the_pixels(plate: Path) -> None:
    import msgspec

    cells = pd.read_parquet(plate / "truth" / "cells.parquet")
    expected = pd.concat([true_cells(SMALL, well) for well in SMALL.wells], ignore_index=True)
    pd.testing.assert_frame_equal(cells, expected)
    pd.testing.assert_frame_equal(pd.read_parquet(plate / "truth" / "wells.parquet"), true_wells(SMALL))
    truth = msgspec.json.decode((plate / "truth" / "truth.json").read_bytes(), type=Truth)
    assert truth.spec == SMALL
    assert truth.overlap_px == 51
    assert truth.origins_px[3] == (205, 205)


def test_writing_the_same_plate_again_leaves_it(plate: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in plate.rglob("*")}
    assert write_plate(plate, SMALL) == plate
    assert {path: path.stat().st_mtime_ns for path in plate.rglob("*")} == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RepositoryError, match="is not empty"):
        write_plate(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_progress_counts_fields_and_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        counts.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plate(tmp_path / "plate", SMALL, progress=stop)
    assert counts == [(1, 12), (2, 12), (3, 12)]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(RepositoryError, match=r"needs 0\.2 GB and .* has 0\.0 GB free"):
        write_plate(tmp_path / "plate", DEMO)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": 17}, "rows is 17"),
        ({"overlap": 0.7}, r"overlap is 0\.7"),
        ({"grid": (0, 2)}, "grid is 0"),
        ({"cells_per_field": 5000}, "5000 cells do not fit"),
        ({"size": 64, "cells_per_field": 1}, "too small for nuclei"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"lowest_dose_um": 20.0}, "highest_dose_um is below"),
    ],
)
def test_values_that_do_not_fit_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SyntheticPlate(**{"size": 1080, **values})


def test_wells_and_fields_that_do_not_exist_are_named() -> None:
    with pytest.raises(UsageError, match="no well B01"):
        true_cells(SMALL, "B01")
    with pytest.raises(UsageError, match="no field 5"):
        true_labels(SMALL, "A01", 5)


def test_a_full_plate_of_384_wells_is_described_at_once() -> None:
    spec = SyntheticPlate(rows=16, columns=24, size=2160, grid=(3, 3), cells_per_field=800)
    assert len(spec.wells) == 384
    assert spec.wells[-1] == "P24"
    assert spec.dose_um(23) == pytest.approx(spec.highest_dose_um)
    assert len(true_cells(spec, "P24")) > 7000


def test_neurites_run_where_and_as_far_as_the_truth_says(tmp_path: Path) -> None:
    spec = SyntheticPlate(
        name="Grown", rows=1, columns=2, grid=(1, 1), slices=1, size=400, cells_per_field=8, neurites=2, read_noise=0
    )
    folder = write_plate(tmp_path / "plate", spec)
    truth = pd.read_parquet(folder / "truth" / "neurites.parquet")
    assert truth.groupby("well").size().tolist() == [16, 16]
    lengths = truth.groupby("well")["length"].mean()
    assert lengths["A02"] > 3 * lengths["A01"]
    assert (truth["inside"] <= truth["length"] + 1).all()
    pd.testing.assert_frame_equal(truth[truth["well"] == "A01"], true_neurites(spec, "A01"))
    without = write_plate(tmp_path / "bare", SyntheticPlate(**{**_asdict(spec), "neurites": 0}))
    with_, bare = (
        tifffile.imread(next((place / "TimePoint_1" / "ZStep_1").glob("*_A02_s1_w2*.tif"))).astype(int)
        for place in (folder, without)
    )
    drawn = (with_ - bare) > 300
    # A neurite is some three pixels wide.
    assert drawn.sum() == pytest.approx(3 * truth[truth["well"] == "A02"]["inside"].sum(), rel=0.3)


def test_stage_positions_may_be_wrong_by_a_known_spread(tmp_path: Path) -> None:
    spec = SyntheticPlate(**{**_asdict(SMALL), "stage_error_px": 5.0, "slices": 1})
    write_plate(tmp_path / "plate", spec)
    repository = EmbeddedRepository(tmp_path / "repository")
    plate = repository.plate(repository.import_plate(tmp_path / "plate").id)
    away = []
    for well in plate.wells:
        found = np.array([field.position_um for field in well.fields]) / spec.pixel_size_um
        away.append(found - [spec.origin(field.number) for field in well.fields])
    spread = np.concatenate([part - part.mean(axis=0) for part in away]).std()
    assert 2 < spread < 8


def _asdict(spec: SyntheticPlate) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}
