"""Saved results: they come back as they were, and other tools read them."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import ResultSpec
from openhcs_jupyter.repository import FieldResults
from openhcs_jupyter.repository.embedded.multiscale import write_multiscale
from openhcs_jupyter.repository.embedded.saved import list_results, open_results
from tests.repository.results import PLACES, SPECS, begun, pixels, results_of, save


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
