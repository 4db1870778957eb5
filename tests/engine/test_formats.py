"""Runs on plates of other formats, and on plates whose files are not alike or do not stay as they were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from openhcs_jupyter import Labels, Step, Table, image, measure
from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.door import RunOptions, Source, plan_run
from openhcs_jupyter.engine import Run, run
from openhcs_jupyter.errors import CompileError, RepositoryError
from openhcs_jupyter.functions import gaussian_blur, max_projection, percentile_normalize, segment_nuclei
from openhcs_jupyter.pipeline.contracts import Context
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.saved import open_results
from tests.engine.bench import LONGEST_S, Bench, until
from tests.plates import MadePlate
from tests.repository.test_omezarr import VERSIONS, pixels, write_plate

MakeBench = Callable[..., Bench]


def bench_of(repository: EmbeddedRepository, made: MadePlate, folder: Path) -> Bench:
    """Return a bench for what lies in a folder; its made plate does not tell the pixels."""
    return Bench(repository, made, repository.plate(repository.import_plate(folder).id), folder)


def test_the_results_of_a_run_are_a_plate_again(bench: Bench) -> None:
    done = bench.done(Step(lambda stack: stack + 1, name="up", save=True), save=True)
    assert isinstance(bench.repository, EmbeddedRepository)
    summary = bench.repository.import_plate(Path(done.results_at or "") / "up.ome.zarr")
    plate = bench.repository.plate(summary.id)
    assert [channel.name for channel in plate.channels] == ["DAPI", "GFP"]
    for (well, field), (_, source) in zip(plate.fields(), bench.plate.fields(), strict=True):
        assert field.position_um == pytest.approx(source.position_um)
        layout, before = field.images[0].layout, source.images[0].layout
        assert (layout.pixel_size_um, layout.z_step_um) == (before.pixel_size_um, before.z_step_um)
        with bench.repository.open(field.images[0]) as opened:
            for c in range(2):
                planes = np.stack([opened.plane(0, c, z) for z in range(3)])
                np.testing.assert_array_equal(planes, bench.pixels(well.name, field.number, c) + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_on_an_ome_zarr_plate_knows_its_times(
    repository: EmbeddedRepository, make_plate: Callable[..., MadePlate], tmp_path: Path, version: str
) -> None:
    @measure()
    def seen(stack: Any, context: Context) -> dict[str, float]:
        return {"mean": float(stack.mean()), "step_s": context.t_step_s or 0.0}

    bench = bench_of(repository, make_plate(tmp_path / "unused"), write_plate(tmp_path / "p.ome.zarr", version))
    done = bench.done(Step(seen, channel="GFP", outputs=Table("means")), Step(max_projection, save=True), save=True)
    table = done.table("means")
    assert list(table["step_s"]) == [30.0] * 8
    expected = [pixels(f"{row.well[0]}/{int(row.well[1:])}", row.field - 1)[row.t - 1, 1].mean() for row in table.itertuples()]  # fmt: skip  # noqa: E501
    np.testing.assert_allclose(table["mean"], expected)
    np.testing.assert_array_equal(
        done.image("max_projection", well="B03", field=2)[1, 0, 0], pixels("B/3", 1)[1, 0].max(0)
    )
    group = zarr.open_group(open_results(Path(done.results_at or "")).group("max_projection", "A01", 1), mode="r")
    told = group.attrs["multiscales"][0]
    assert told["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
    assert told["datasets"][0]["coordinateTransformations"][0]["scale"][0] == 30.0


# Images that are not alike


@pytest.fixture
def uneven(make_bench: MakeBench) -> Bench:
    """Return a bench whose well B02 has a second field of another size."""
    bench = make_bench(z=1)
    for c in range(2):
        path = bench.made.file("B02", 2, c, 0)
        tifffile.imwrite(path, np.full((10, 12), 7 + c, np.uint16), metadata=None)
    assert isinstance(bench.repository, EmbeddedRepository)
    plate = bench.repository.plate(bench.repository.import_plate(bench.made.folder).id)
    return bench._replace(plate=plate)


def test_wells_of_different_sizes_and_types_are_told_at_import(
    repository: EmbeddedRepository, make_plate: Callable[..., MadePlate]
) -> None:
    made = make_plate(z=1)
    for c in range(2):
        tifffile.imwrite(made.file("B02", 2, c, 0), np.zeros((10, 12), np.uint8), metadata=None)
    (problem,) = repository.import_plate(made.folder).problems
    assert problem.startswith("images differ in size or type: 24 x 32 uint16 in 3 field(s), such as A01 field 1; ")
    assert problem.endswith("10 x 12 uint8 in 1 field(s), such as B02 field 2")


def test_fields_of_different_sizes_are_each_taken_as_they_are(uneven: Bench) -> None:
    done = uneven.done(Step(gaussian_blur, {"sigma": 1.0}, save=True), save=True)
    assert done.image("gaussian_blur", well="B02", field=1).shape == (1, 2, 1, 24, 32)
    assert done.image("gaussian_blur", well="B02", field=2).shape == (1, 2, 1, 10, 12)
    results = open_results(Path(done.results_at or ""))
    assert zarr.open_array(results.group("gaussian_blur", "B02", 2) / "0", mode="r").shape == (1, 2, 1, 10, 12)


def test_fields_of_different_sizes_are_not_taken_together(uneven: Bench) -> None:
    @image(stack="field", depth="one")
    def mean(stack: Any) -> Any:
        return stack.mean(0)[None]

    with pytest.raises(
        CompileError, match=r"fields of B02 differ in size .*: field 1 has 24 x 32 pixels, field 2 10 x 12"
    ):
        uneven.compile(Step(mean))
    # What a step makes of them, only running tells.
    failed = uneven.run(Step(lambda stack: stack, name="same"), Step(mean))
    assert [failure.well for failure in failed.failures] == ["B02"]
    assert (
        "cannot be taken together along field: field 1 has 24 x 32; field 2 has 10 x 12" in failed.failures[0].message
    )
    cropped = uneven.done(Step(lambda stack: stack[:, :10, :12], name="cropped"), Step(mean, save=True))
    assert cropped.image("mean", well="B02").shape == (1, 2, 1, 10, 12)


def test_16_bit_images_that_use_8_bits_give_the_same_objects(make_bench: MakeBench, tmp_path: Path) -> None:
    y, x = np.mgrid[:200, :200]
    blobs = sum(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 128) for cy, cx in [(50, 50), (50, 150), (150, 100)])
    counts = {}
    for name, scale in (("wide", 60000), ("narrow", 200)):
        bench = make_bench(folder=tmp_path / name, wells=("A01",), fields=1, channels=("DAPI",), z=1, size=(200, 200))
        values = (blobs * scale + scale * 0.05).astype(np.uint16)
        tifffile.imwrite(bench.made.file("A01", 1, 0, 0), values, metadata=None)
        assert isinstance(bench.repository, EmbeddedRepository)
        plate = bench.repository.plate(bench.repository.import_plate(bench.made.folder).id)
        done = bench._replace(plate=plate).done(
            Step(percentile_normalize, {"low": 1, "high": 99.8}, save=True),
            Step(segment_nuclei, outputs=Labels("nuclei")),
        )
        normalised = done.image("percentile_normalize", well="A01")
        assert normalised.max() > 60000, "the whole range of the type is used"
        counts[name] = int(done.labels("nuclei", well="A01").max())
    assert counts == {"wide": 3, "narrow": 3}


# Files that do not stay as they were


def planned(bench: Bench) -> ExecutionPlan:
    """Plan a run as a cell or a script does."""
    steps = [Step(gaussian_blur, {"sigma": 1.0}, channel="DAPI", save=True)]
    return plan_run(steps, Source("cell", "", "cell"), bench.plate, RunOptions())


def test_files_that_changed_since_the_import_are_told_before_a_run(bench: Bench) -> None:
    planned(bench)
    changed, gone = bench.made.file("A01", 1, 0, 0), bench.made.file("B02", 2, 1, 2)
    changed.write_bytes(changed.read_bytes()[::-1])
    gone.unlink()
    with pytest.raises(RepositoryError, match="Files of plate plate are not as they were imported") as raised:
        planned(bench)
    assert f"{changed} has changed since the plate was imported" in raised.value.message
    assert f"{gone} is gone" in raised.value.message
    assert "import the plate's folder again" in (raised.value.hint or "")


def test_only_files_that_the_run_takes_are_looked_at(bench: Bench) -> None:
    bench.made.file("B02", 2, 1, 2).unlink()
    steps = [Step(gaussian_blur, channel="DAPI", save=True)]
    plan_run(steps, Source("cell", "", "cell"), bench.plate, RunOptions(wells="A01"))


def test_a_file_that_changes_while_its_unit_is_computed_costs_the_unit(bench: Bench) -> None:
    """Nobody knows whether it was read before or after, so what was made of it is not kept."""
    file = bench.made.file("A01", 1, 0, 0)
    flag, seen = bench.folder / "changed", bench.folder / "seen"

    def slow(stack: Any, context: Context) -> Any:
        if (context.well, context.field) == ("A01", 1):
            seen.touch()
            until(flag.exists, "the file to be changed")
        return stack + 1

    started = bench.start(Step(slow, channel="DAPI", save=True))
    until(seen.exists, "the function to be called")
    with file.open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        stream.write(b"\xff" * 100)
    flag.touch()
    assert started.wait(LONGEST_S)
    (failure,) = started.failures
    assert (failure.well, failure.field) == ("A01", 1)
    assert f"{file} has changed since the plate was imported" in failure.message
    with pytest.raises(Exception, match="is not there"):
        started.image("slow", well="A01", field=1)


def test_results_of_the_old_files_are_not_taken_for_the_new_ones(bench: Bench) -> None:
    def again() -> Run:
        assert isinstance(bench.repository, EmbeddedRepository)
        plate = bench.repository.plate(bench.repository.import_plate(bench.made.folder).id)
        steps = [Step(lambda stack: stack + 1, name="up", channel="DAPI", save=True)]
        return run(bench._replace(plate=plate).compile(*steps)).result()

    before = again().image("up", well="A01", field=1).copy()
    bench.made.write("A01", 1, 0, 0)  # the same pixels in a new file
    path = bench.made.file("A01", 1, 0, 0)
    tifffile.imwrite(path, np.full((24, 32), 99, np.uint16), metadata=None)
    after = again().image("up", well="A01", field=1)
    assert (after[0, 0, 0] == 100).all()
    np.testing.assert_array_equal(after[0, 0, 1:], before[0, 0, 1:])


def test_a_chunk_that_changes_after_import_costs_its_unit(
    repository: EmbeddedRepository, make_plate: Callable[..., MadePlate], tmp_path: Path
) -> None:
    folder = write_plate(tmp_path / "p.ome.zarr", "0.5", chunks=(1, 1, 1, 40, 50))
    bench = bench_of(repository, make_plate(tmp_path / "unused"), folder)
    (chunk,) = folder.glob("A/1/0/s0/c/0/0/0/0/0")
    shutil.copyfile(chunk.parents[3] / "1/0/0/0", chunk)
    failed = bench.run(Step(gaussian_blur, save=True))
    assert [(failure.well, failure.field) for failure in failed.failures] == [("A01", 1)]
    assert f"{chunk} has changed since the plate was imported" in failed.failures[0].message
