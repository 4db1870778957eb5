"""Saved results: what other tools read of them, and that they are there whole or not at all."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ResultSpec, RunRecord
from openhcs_jupyter.repository import FieldResults
from openhcs_jupyter.repository.embedded.layout import INDEX
from openhcs_jupyter.repository.embedded.multiscale import write_multiscale
from openhcs_jupyter.repository.embedded.results import OmeZarrWriter
from openhcs_jupyter.repository.embedded.saved import list_results, open_results

CHANNELS = (Channel(name="DAPI", color="0000FF"), Channel(name="GFP"))
SPECS = (
    ResultSpec(name="projection", kind="image", step=0, scope="field", channels=("DAPI", "GFP")),
    ResultSpec(name="nuclei", kind="labels", step=1, scope="field", channels=("DAPI",), over="projection"),
    ResultSpec(name="cells", kind="table", step=2, scope="field"),
)
PLACES = [("A01", 1), ("A01", 2), ("B12", 1)]


def writer(folder: Path, run: str = "run-1") -> OmeZarrWriter:
    record = RunRecord(
        id=run,
        name="nuclei",
        repository=str(folder),
        plate_id=51,
        plate_name="Screen 7",
        source="pipeline_steps = []",
        source_name="Cell In[3]",
        options={},
        user="ada",
        host="lab",
        started="2026-11-22T10:00:00Z",
        versions={},
        inputs={},
    )
    return OmeZarrWriter(folder / run, record)


def begun(folder: Path, specs: tuple[ResultSpec, ...] = SPECS) -> OmeZarrWriter:
    made = writer(folder)
    made.begin(specs, CHANNELS, 8, 12)
    return made


def pixels(well: str, field: int, size: tuple[int, int] = (300, 421), z: int = 1) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng([ord(letter) for letter in well] + [field])
    return {
        "projection": rng.integers(100, 4000, (1, 2, z, *size), dtype=np.uint16),
        "nuclei": rng.integers(0, 50, (1, 1, z, *size), dtype=np.int32),
    }


def results_of(well: str, field: int, **arrays: NDArray[Any]) -> FieldResults:
    return FieldResults(
        well=well,
        field=field,
        arrays=arrays or pixels(well, field),
        pixel_size_um=0.5,
        z_step_um=2.0,
        position_um=(1000.0, 2000.0),
    )


def save(folder: Path) -> Path:
    made = begun(folder)
    for well, field in PLACES:
        made.write_field(results_of(well, field))
    made.write_table("cells", pd.DataFrame({"well": ["A01", "B12"], "area": [10.5, 7.0]}))
    return Path(made.finish(PLACES, {"provenance.json": b"{}", "cell.py": b"pipeline_steps = []"}))


def tree(folder: Path) -> dict[str, bytes]:
    """All files but the index, which tells the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != INDEX
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("results"))


def test_pixels_come_back_as_they_were(saved: Path) -> None:
    results = open_results(saved)
    for well, field in PLACES:
        expected = pixels(well, field)
        for name in ("projection", "nuclei"):
            stored = zarr.open_array(results.group(name, well, field) / "0", mode="r")
            assert stored.dtype == expected[name].dtype
            np.testing.assert_array_equal(stored[...], expected[name])


def test_coarser_levels_are_means_of_images_and_samples_of_labels(saved: Path) -> None:
    results = open_results(saved)
    image = zarr.open_group(results.group("projection", "A01", 1), mode="r")
    labels = zarr.open_group(results.group("nuclei", "A01", 1), mode="r")
    assert sorted(image.array_keys()) == sorted(labels.array_keys()) == ["0", "1"]
    fine = pixels("A01", 1)
    blocks = fine["projection"][..., :420].reshape(1, 2, 1, 150, 2, 210, 2)
    means = np.floor(blocks.mean(axis=(4, 6)) + 0.5)
    np.testing.assert_array_equal(image["1"][...], means)
    np.testing.assert_array_equal(labels["1"][...], fine["nuclei"][..., ::2, :420:2])


def test_everything_is_valid_ome_zarr(saved: Path) -> None:
    from ome_zarr_models.v04 import HCS, Image, Well
    from ome_zarr_models.v04.image_label import ImageLabel
    from ome_zarr_models.v04.labels import Labels

    group = zarr.open_group(saved / "projection.ome.zarr", mode="r")
    plate = HCS.from_zarr(group).attributes.plate
    assert plate.name == "Screen 7"
    assert (len(plate.rows), len(plate.columns)) == (8, 12)
    assert [well.path for well in plate.wells] == ["A/1", "B/12"]
    for place in plate.wells:
        well = Well.from_zarr(group[place.path])
        for field in well.attributes.well.images:
            image = Image.from_zarr(group[f"{place.path}/{field.path}"])
            assert [channel.label for channel in image.attributes.omero.channels] == ["DAPI", "GFP"]
            labels = Labels.from_zarr(group[f"{place.path}/{field.path}/labels"])
            assert labels.attributes.labels == ["nuclei"]
            ImageLabel.from_zarr(group[f"{place.path}/{field.path}/labels/nuclei"])


def test_ome_zarr_reads_the_plate_and_its_fields(saved: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    plate = next(iter(Reader(parse_url(saved / "projection.ome.zarr"))()))
    assert plate.data[0].shape[-2:] == (8 * 300, 12 * 421)
    nodes = list(Reader(parse_url(saved / "projection.ome.zarr" / "A" / "1" / "1"))())
    expected = pixels("A01", 2)
    np.testing.assert_array_equal(nodes[0].data[0].compute(), expected["projection"])
    assert [node.metadata.get("name") for node in nodes if "nuclei" in node.zarr.basename()]


def test_the_napari_reader_makes_layers_of_them(saved: Path) -> None:
    from napari_ome_zarr import napari_get_reader

    read = napari_get_reader(str(saved / "projection.ome.zarr"))
    assert read is not None
    layers = {kind: (data, about) for data, about, kind in read()}
    image, about = layers["image"]
    assert about["name"] == ["A01 field 1: DAPI", "A01 field 1: GFP"]
    assert about["scale"][-2:] == [0.5, 0.5]
    expected = pixels("B12", 1)
    np.testing.assert_array_equal(image[0][..., 300:600, 11 * 421 :].compute(), expected["projection"])
    np.testing.assert_array_equal(layers["labels"][0][0][..., 300:600, 11 * 421 :].compute(), expected["nuclei"])


def test_a_field_lies_where_the_stage_was(saved: Path) -> None:
    image = zarr.open_group(saved / "projection.ome.zarr" / "A" / "1" / "0", mode="r")
    levels = image.attrs["multiscales"][0]["datasets"]
    assert levels[0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 1.0, 2.0, 0.5, 0.5]},
        # The stage is at the centre of 300 x 421 pixels, the translation at the centre of the first.
        {"type": "translation", "translation": [0.0, 0.0, 0.0, 1000 - 149.5 * 0.5, 2000 - 210 * 0.5]},
    ]
    assert levels[1]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 2.0, 1.0, 1.0]
    assert levels[1]["coordinateTransformations"][1]["translation"][3] == 1000 - 149 * 0.5


def test_channels_are_shown_within_their_own_intensities(tmp_path: Path) -> None:
    made = begun(tmp_path)
    image = np.full((1, 2, 1, 64, 64), 200, np.uint16)
    image[0, 0, 0, :, :32] = 900
    image[0, 0, 0, 0, 0] = 65535
    made.write_field(results_of("A01", 1, projection=image))
    group = zarr.open_group(Path(made.finish([("A01", 1)], {})) / "projection.ome.zarr" / "A" / "1" / "0", mode="r")
    first, second = group.attrs["omero"]["channels"]
    assert first["color"] == "0000FF"
    assert (first["window"]["start"], first["window"]["end"]) == (200, 900)
    assert second["window"]["start"] < second["window"]["end"]


def test_tables_say_which_run_and_plate_they_come_from(saved: Path) -> None:
    table = pq.read_table(saved / "tables" / "cells.parquet")
    assert table.to_pandas().to_dict("list") == {"well": ["A01", "B12"], "area": [10.5, 7.0]}
    assert table.schema.metadata[b"openhcs:run"] == b"run-1"
    assert table.schema.metadata[b"openhcs:plate_name"] == b"Screen 7"
    assert pq.ParquetFile(saved / "tables" / "cells.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_results_folder_tells_what_it_holds(saved: Path) -> None:
    [results] = list_results(saved.parent)
    assert results.folder == str(saved)
    assert (results.run_id, results.plate_id, results.plate_name) == ("run-1", 51, "Screen 7")
    assert [(image.name, image.wells) for image in results.images] == [("projection", ("A01", "B12"))]
    assert [(labels.name, labels.over, labels.fields) for labels in results.labels] == [
        ("nuclei", "projection", tuple(PLACES))
    ]
    assert [(table.name, table.rows, table.columns) for table in results.tables] == [("cells", 2, ("well", "area"))]
    assert results.documents == ("cell.py", "provenance.json")
    assert (saved / "cell.py").read_text() == "pipeline_steps = []"


def test_asking_for_what_was_not_saved_says_what_was(saved: Path) -> None:
    results = open_results(saved)
    with pytest.raises(RepositoryError, match="projection, nuclei"):
        results.group("cytoplasm", "A01", 1)
    with pytest.raises(RepositoryError, match="A01, B12"):
        results.group("nuclei", "C03", 1)


def test_labels_over_no_image_are_a_plate_of_their_own(tmp_path: Path) -> None:
    from ome_zarr_models.v04 import HCS

    lone = (ResultSpec(name="nuclei", kind="labels", step=0, scope="field", channels=("DAPI",)),)
    made = begun(tmp_path, lone)
    made.write_field(results_of("A01", 1, nuclei=pixels("A01", 1)["nuclei"].astype(np.int64)))
    results = open_results(Path(made.finish([("A01", 1)], {})))
    group = zarr.open_group(results.group("nuclei", "A01", 1), mode="r")
    assert group["0"].dtype == np.int32
    np.testing.assert_array_equal(group["0"][...], pixels("A01", 1)["nuclei"])
    assert "image-label" in group.attrs
    HCS.from_zarr(zarr.open_group(Path(results.folder) / "nuclei.ome.zarr", mode="r"))


WIDE = (
    *SPECS,
    ResultSpec(name="montage", kind="image", step=3, scope="well", channels=("DAPI",)),
    ResultSpec(name="tissue", kind="labels", step=4, scope="well", channels=("DAPI",), over="montage"),
    ResultSpec(name="mean", kind="image", step=5, scope="plate", channels=("DAPI",)),
    ResultSpec(name="dust", kind="labels", step=6, scope="plate", channels=("DAPI",), over="mean"),
)


def of_well(well: str | None) -> FieldResults:
    """Return results of a joined well, or of the plate."""
    rng = np.random.default_rng(len(well or ""))
    image, labels = ("montage", "tissue") if well else ("mean", "dust")
    arrays = {
        image: rng.integers(100, 4000, (1, 1, 1, 300, 842), dtype=np.uint16),
        labels: rng.integers(0, 50, (1, 1, 1, 300, 842), dtype=np.int32),
    }
    return FieldResults(well=well, field=None, arrays=arrays, pixel_size_um=0.5, z_step_um=None)


def test_images_of_fields_of_joined_wells_and_of_the_plate_stand_side_by_side(tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v04 import HCS, Image, Well
    from ome_zarr_models.v04.labels import Labels

    made = begun(tmp_path, WIDE)
    places = [*PLACES, ("A01", None), ("B12", None), (None, None)]
    for well, field in places:
        made.write_field(of_well(well) if field is None else results_of(well, field))
    results = open_results(Path(made.finish(places, {})))
    assert [(image.name, image.scope, image.wells) for image in results.images] == [
        ("projection", "field", ("A01", "B12")),
        ("montage", "well", ("A01", "B12")),
        ("mean", "plate", ()),
    ]
    assert results.fields == ((None, None), ("A01", None), ("A01", 1), ("A01", 2), ("B12", None), ("B12", 1))
    for well, image, labels in (("B12", "montage", "tissue"), (None, "mean", "dust")):
        for name in (image, labels):
            stored = zarr.open_array(results.group(name, well) / "0", mode="r")
            np.testing.assert_array_equal(stored[...], of_well(well).arrays[name])
    np.testing.assert_array_equal(
        zarr.open_array(results.group("projection", "A01", 2) / "0", mode="r")[...], pixels("A01", 2)["projection"]
    )
    montage = zarr.open_group(Path(results.folder) / "montage.ome.zarr", mode="r")
    HCS.from_zarr(montage)
    (image,) = Well.from_zarr(montage["A/1"]).attributes.well.images
    Image.from_zarr(montage[f"A/1/{image.path}"])
    mean = zarr.open_group(results.group("mean"), mode="r")
    assert Image.from_zarr(mean).attributes.multiscales[0].name == "Screen 7"
    assert Labels.from_zarr(mean["labels"]).attributes.labels == ["dust"]
    nodes = list(Reader(parse_url(results.group("mean")))())
    np.testing.assert_array_equal(nodes[0].data[0].compute(), of_well(None).arrays["mean"])
    with pytest.raises(RepositoryError, match="no 'montage' of C03"):
        results.group("montage", "C03")


def test_a_repeated_write_of_a_place_leaves_the_others(tmp_path: Path) -> None:
    made = begun(tmp_path, WIDE)
    places = [("A01", 1), ("A01", None), (None, None)]
    for _ in range(2):
        for well, field in places:
            made.write_field(of_well(well) if field is None else results_of(well, field))
    folder = Path(made.finish(places, {}))
    again = begun(tmp_path, WIDE)
    again.write_field(results_of("A01", 1))
    assert open_results(Path(again.finish(places, {}))).fields == ((None, None), ("A01", None), ("A01", 1))
    last = begun(tmp_path, WIDE)
    last.write_field(of_well("A01"))
    assert open_results(Path(last.finish([("A01", None)], {}))).fields == (("A01", None),)
    assert [path.name for path in folder.iterdir() if path.suffix == ".zarr"] == ["montage.ome.zarr"]


def test_an_image_of_another_reach_than_announced_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="'montage' was announced for each well; this is A01 field 1"):
        begun(tmp_path, WIDE).write_field(results_of("A01", 1, montage=of_well("A01").arrays["montage"]))


def test_any_name_of_a_result_is_taken(tmp_path: Path) -> None:
    names = ["a/b", "<lambda>", "..", "Zellkörper 1"]
    made = begun(tmp_path, tuple(ResultSpec(name=name, kind="image", step=0, scope="field") for name in names))
    arrays = {name: np.full((1, 1, 1, 8, 8), number, np.uint8) for number, name in enumerate(names)}
    made.write_field(results_of("A01", 1, **arrays))
    results = open_results(Path(made.finish([("A01", 1)], {})))
    for number, name in enumerate(names):
        assert (zarr.open_array(results.group(name, "A01", 1) / "0", mode="r")[...] == number).all()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"projection": np.zeros((1, 2, 1, 8, 8), complex)}, "complex128"),
        ({"projection": np.zeros((8, 8), np.uint8)}, r"\(8, 8\)"),
        ({"projection": np.zeros((1, 1, 0, 8, 8), np.uint8)}, r"\(1, 1, 0, 8, 8\)"),
        ({"nuclei": np.zeros((1, 1, 1, 8, 8), np.int32)}, "lie over 'projection'"),
        ({"unknown": np.zeros((1, 1, 1, 8, 8), np.uint8)}, "no image or labels 'unknown'"),
        (
            {"projection": np.zeros((1, 2, 1, 8, 8), np.uint8), "nuclei": np.zeros((1, 1, 1, 8, 8), np.float32)},
            "labels cannot have",
        ),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, arrays: dict[str, NDArray[Any]], says: str) -> None:
    made = begun(tmp_path)
    with pytest.raises(RepositoryError, match=says) as caught:
        made.write_field(results_of("A01", 1, **arrays))
    assert caught.value.hint


def test_a_column_of_mixed_types_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="area"):
        begun(tmp_path).write_table("cells", pd.DataFrame({"area": [1, "large"]}))


def test_nothing_is_a_result_before_it_is_finished(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write_field(results_of("A01", 1))
    assert list_results(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    with pytest.raises(RepositoryError, match="no results"):
        open_results(tmp_path / "run-1")


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write_field(results_of("A01", 1))
    made.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_write_replaces_the_field(tmp_path: Path) -> None:
    made = begun(tmp_path)
    large = np.full((1, 2, 3, 600, 600), 7, np.uint16)
    made.write_field(results_of("A01", 1, projection=large, nuclei=np.ones((1, 1, 3, 600, 600), np.int32)))
    made.write_field(results_of("A01", 1))
    once = begun(tmp_path / "once")
    once.write_field(results_of("A01", 1))
    assert tree(Path(made.finish([("A01", 1)], {}))) == tree(Path(once.finish([("A01", 1)], {})))


def test_fields_that_were_lost_are_named_at_the_end(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.write_field(results_of("A01", 1))
    with pytest.raises(RepositoryError, match="B12 field 1"):
        made.finish([("A01", 1), ("B12", 1)], {})
    assert list_results(tmp_path) == []


def test_fields_of_failed_units_are_left_out(tmp_path: Path) -> None:
    made = begun(tmp_path)
    for well, field in PLACES:
        made.write_field(results_of(well, field))
    folder = Path(made.finish([("A01", 2)], {}))
    assert open_results(folder).fields == (("A01", 2),)
    assert not (folder / "projection.ome.zarr" / "B" / "12").exists()
    assert not (folder / "projection.ome.zarr" / "A" / "1" / "0").exists()
    assert zarr.open_group(folder / "projection.ome.zarr" / "A" / "1", mode="r").attrs["well"]["images"] == [
        {"path": "1"}
    ]


def test_a_run_that_goes_on_keeps_the_fields_it_gathered(tmp_path: Path) -> None:
    begun(tmp_path).write_field(results_of("A01", 1))
    again = begun(tmp_path)
    again.write_field(results_of("A01", 2))
    assert open_results(Path(again.finish([("A01", 1), ("A01", 2)], {}))).fields == (("A01", 1), ("A01", 2))


def test_a_changed_run_starts_afresh(tmp_path: Path) -> None:
    begun(tmp_path).write_field(results_of("A01", 1))
    changed = begun(tmp_path, SPECS[:1])
    with pytest.raises(RepositoryError, match="A01 field 1"):
        changed.finish([("A01", 1)], {})


def test_a_run_finished_again_keeps_what_it_published(tmp_path: Path) -> None:
    first = tree(save(tmp_path))
    again = begun(tmp_path)
    again.write_field(results_of("A01", 1))
    again.write_table("cells", pd.DataFrame({"well": ["A01", "B12"], "area": [10.5, 7.0]}))
    folder = again.finish(PLACES, {"provenance.json": b"{}", "cell.py": b"pipeline_steps = []"})
    assert tree(Path(folder)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["run-1"]


def write_some(folder: Path, fields: list[int], ready: Any) -> None:
    made = writer(folder)
    ready.wait(60)
    for field in fields:
        made.write_field(results_of("A01", field))


def test_two_processes_write_fields_of_one_well(tmp_path: Path) -> None:
    fields = list(range(1, 17))
    alone = begun(tmp_path / "alone")
    together = begun(tmp_path / "together")
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    workers = [context.Process(target=write_some, args=(tmp_path / "together", fields[n::2], ready)) for n in (0, 1)]
    for worker in workers:
        worker.start()
    for field in fields:
        alone.write_field(results_of("A01", field))
    for worker in workers:
        worker.join()
    places = [("A01", field) for field in fields]
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert tree(Path(together.finish(places, {}))) == tree(Path(alone.finish(places, {})))


def write_large(folder: Path) -> None:
    made = writer(folder)
    while True:
        made.write_field(results_of("A01", 1, **pixels("A01", 1, size=(512, 512), z=16)))


def test_a_writer_killed_in_the_middle_leaves_no_trace(tmp_path: Path) -> None:
    large = results_of("A01", 1, **pixels("A01", 1, size=(512, 512), z=16))
    begun(tmp_path / "killed")
    worker = multiprocessing.get_context("spawn").Process(target=write_large, args=(tmp_path / "killed",))
    worker.start()
    half = tmp_path / "killed" / ".run-1.partial" / "projection.ome.zarr" / "A" / "1" / "0" / "0" / "0" / "1" / "3"
    while not half.exists():
        assert worker.is_alive()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert list_results(tmp_path / "killed") == []

    again, whole = begun(tmp_path / "killed"), begun(tmp_path / "whole")
    for made in (again, whole):
        made.write_field(large)
    assert tree(Path(again.finish([("A01", 1)], {}))) == tree(Path(whole.finish([("A01", 1)], {})))


def finish_and_die(folder: Path) -> None:
    made = begun(folder)
    made.write_field(results_of("A01", 1))
    rename = Path.rename

    def last(path: Path, target: Path) -> None:
        rename(path, target)
        os.kill(os.getpid(), signal.SIGKILL)

    Path.rename = last  # type: ignore[method-assign, assignment]
    made.finish([("A01", 1)], {})


def test_a_kill_while_publishing_loses_neither_old_nor_new(tmp_path: Path) -> None:
    first = tree(save(tmp_path))
    worker = multiprocessing.get_context("spawn").Process(target=finish_and_die, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run-1").exists()

    [results] = list_results(tmp_path)
    assert tree(Path(results.folder)) == first
    assert open_results(tmp_path / "run-1").fields == tuple(PLACES)

    # The run goes on: it has nothing more to write.
    folder = Path(begun(tmp_path).finish([("A01", 1)], {}))
    assert open_results(folder).fields == (("A01", 1),)
    assert [path.name for path in tmp_path.iterdir()] == ["run-1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a small disk needs root and mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_leaves_no_results(small_disk: Path) -> None:
    made = begun(small_disk)
    made.write_field(results_of("A01", 1, projection=np.zeros((1, 2, 1, 64, 64), np.uint16)))
    noise = np.random.default_rng(0).integers(0, 65536, (1, 2, 1, 1024, 1024), dtype=np.uint16)
    with pytest.raises(RepositoryError, match=f"no space left for the results in {small_disk}") as caught:
        made.write_field(results_of("A01", 2, projection=noise))
    assert "Free some space" in str(caught.value.hint)
    with pytest.raises(RepositoryError, match="no space left"):
        made.write_table("cells", pd.DataFrame({"noise": noise.ravel()}))
    with pytest.raises(RepositoryError, match="no space left"):
        made.finish([("A01", 1)], {"plan.json": noise.tobytes()})
    assert list_results(small_disk) == []

    # With room again the run goes on from there.
    (small_disk / ".run-1.partial" / "plan.json").unlink()
    again = begun(small_disk)
    assert open_results(Path(again.finish([("A01", 1)], {}))).fields == (("A01", 1),)


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    import resource

    made = begun(tmp_path)
    noise = np.random.default_rng(0).integers(0, 65536, (1, 2, 1, 512, 512), dtype=np.uint16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RepositoryError, match="no space left"):
            made.write_field(results_of("A01", 1, projection=noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(RepositoryError, match="A01 field 1"):
        made.finish([("A01", 1)], {})


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that can be looked into and not written, by whoever runs the tests."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_named(closed_folder: Path) -> None:
    with pytest.raises(RepositoryError, match=f"{closed_folder} cannot be written") as caught:
        begun(closed_folder)
    assert "Make it writable" in str(caught.value.hint)
    assert list(closed_folder.iterdir()) == []


DTYPES = st.sampled_from(["bool", "uint8", "uint16", "uint32", "int32", "int16", "float32", "float64", ">u2"])
SIZES = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 600), st.integers(1, 600))


@settings(max_examples=25, deadline=None)
@given(shape=SIZES, dtype=DTYPES, labels=st.booleans(), seed=st.integers(0, 99))
def test_any_shape_and_type_comes_back_with_its_pyramid(
    shape: tuple[int, ...], dtype: str, labels: bool, seed: int
) -> None:
    labels = labels and np.dtype(dtype).kind in "iu"
    values = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "image"
        write_multiscale(folder, values, labels)
        group = zarr.open_group(folder, mode="r")
        np.testing.assert_array_equal(group["0"][...], values)
        assert group["0"].dtype == ("uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
        levels = [group[str(number)] for number in range(len(list(group.array_keys())))]
        assert max(levels[-1].shape[3:]) <= 256
        for fine, coarse in itertools.pairwise(levels):
            assert coarse.shape[3:] == tuple(max(1, size // 2) for size in fine.shape[3:])
            above, below = fine[...], coarse[...]
            if labels:
                assert set(np.unique(below)) <= set(np.unique(above))
            else:
                assert above.min() <= below.min()
                assert below.max() <= above.max()


def test_planes_larger_than_a_chunk_come_back(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (1, 1, 1, 20, 9000), dtype=np.uint8)
    write_multiscale(tmp_path / "image", values, labels=False)
    stored = zarr.open_array(tmp_path / "image" / "0", mode="r")
    assert stored.chunks == (1, 1, 1, 20, 4096)
    np.testing.assert_array_equal(stored[...], values)


def test_an_image_of_nan_has_a_window(tmp_path: Path) -> None:
    [window] = write_multiscale(tmp_path / "image", np.full((1, 1, 1, 9, 9), np.nan, np.float32), labels=False)
    assert window.low < window.high
