"""Plates that are not as they should be, results that may not be written: clear errors, and nothing half done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")


from openhcs_jupyter import Labels, Step, Table, measure
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import run
from openhcs_jupyter.errors import OpenHCSError, RepositoryError
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.romio import path_of
from openhcs_jupyter.topology import discover
from tests.omero.lab import Lab
from tests.plates import MadePlate

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("OMERO_HOST" in os.environ, reason="a real server's database is not broken for a test"),
]
_FEATURES = 771


class Ward(Lab):
    """A laboratory where things went wrong."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        sample = self.sample
        self.read_only, _ = sample.plate("of grace", owner="grace", of="archive")
        self.hidden_well, self.hidden_made = sample.plate("partly hidden")
        for image in sample.images_of(self.hidden_well)[2:]:
            image.owner, image.group = sample.users["mallory"], sample.groups["private"]
            sample.store.put(image)
        self.importing, _ = sample.plate("importing")
        pixels = sample.pixels_of(sample.images_of(self.importing)[3])
        sample.store.drop(pixels.key)
        self.empty = sample.store.add("Plate", {"name": "empty"}, sample.users["ada"], sample.groups["imaging"]).id
        self.lost, _ = sample.plate("lost")
        self.lost_file = self._file(sample.images_of(self.lost)[1])
        self.lost_file.unlink()
        self.large, self.large_made = sample.plate("large", wells=("A01",), fields=1, z=1, size=(3300, 3300))
        self.outside, _ = sample.plate("outside", imported=True)
        for record in sample.store.all("OriginalFile"):
            if "/outside/" in str(record.values.get("path")):
                record.values["path"] = "../../../etc/"
                sample.store.put(record)
        self.project = sample.project("Project one")
        self.dataset, self.dataset_made = sample.dataset("controls", project=self.project)
        self.zarr, self.zarr_made = sample.plate("zarr")
        sample.register_zarr(self.zarr, self.zarr_made, sample.repository.managed / "zarr")
        self.zarr_elsewhere, made = sample.plate("zarr elsewhere", wells=("A01",), fields=1)
        sample.register_zarr(self.zarr_elsewhere, made, folder / "elsewhere")
        sample.store.commit()

    def _file(self, image: Any) -> Path:
        return self.sample.repository.folder / path_of("Pixels", self.sample.pixels_of(image).id)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with Ward(tmp_path_factory.mktemp("omero")) as made:
        yield made


def names_of(repository: OmeroRepository) -> dict[str, int]:
    """Count what is in OMERO."""
    counts = {}
    for kind in ("Plate", "Image", "Roi", "Annotation", "OriginalFile", "Dataset"):
        query = f"select count(o.id) from {kind} o"
        counts[kind] = _ask(repository, query)[0][0]
    return counts


def _ask(repository: OmeroRepository, query: str) -> list[list[Any]]:
    from openhcs_jupyter.repository.omero.queries import ask

    return repository.connection.call(lambda session: ask(session, query, repository.connection.everywhere))


def projected(repository: OmeroRepository, plate: int | str, **options: Any) -> Any:
    pipeline = Pipeline([Step(max_projection, save=True, name="mip")], name="projected")
    return run(compile(pipeline, repository.plate(plate), discover(), workers=1, **options))


def check(repository: OmeroRepository, plate: int | str, made: MadePlate) -> None:
    for well, field in repository.plate(plate).fields():
        with repository.open(field.images[0]) as source:
            for c, z in np.ndindex(len(made.channels), made.z):
                np.testing.assert_array_equal(source.plane(0, c, z), made.plane(well.name, field.number, c, z))


class TestReading:
    def test_an_unknown_host(self) -> None:
        with pytest.raises(RepositoryError, match=r"No OMERO server answers at no-such-host\.invalid:4064: DNS"):
            OmeroRepository("omero://ada@no-such-host.invalid", lambda _: "secret").reach()

    def test_fields_whose_images_may_not_be_seen_are_left_out_and_named(self, lab: Ward, ada: OmeroRepository) -> None:
        plate = ada.plate(lab.hidden_well)
        assert [well.name for well in plate.wells] == ["A01"]
        told = ada.told_of([plate.wells[0].fields[0].images[0]])
        assert "No image that you may see has B02 field 1, B02 field 2: left out." in told

    def test_an_image_that_is_still_importing(self, lab: Ward, ada: OmeroRepository) -> None:
        with pytest.raises(RepositoryError, match=r"B02 field 2 of importing .* has no pixels yet"):
            ada.plate(lab.importing)
        with pytest.raises(RepositoryError, match=r"Plate \d+ \(empty\) has no images"):
            ada.plate(lab.empty)

    def test_a_file_that_is_missing_costs_its_field_only(self, lab: Ward, direct: OmeroRepository) -> None:
        with pytest.raises(OpenHCSError, match=r"A01 field 2: .*does not give plane"):
            projected(direct, lab.lost).result()
        done = projected(direct, lab.lost)
        assert done.wait(60)
        assert [(failure.well, failure.field) for failure in done.failures] == [("A01", 2)]
        assert any(f"{lab.lost_file} is not there" in notice for notice in done.notices)

    def test_an_image_that_omero_keeps_as_a_pyramid(self, lab: Ward, ada: OmeroRepository) -> None:
        check(ada, lab.large, lab.large_made)
        image = ada.plate(lab.large).wells[0].fields[0].images[0]
        lab.server.ask(no_pyramids=True)
        try:
            with (
                ada.open(image) as source,
                pytest.raises(RepositoryError, match="still making the pyramid of A01 field 1"),
            ):
                source.plane(0, 0, 0)
        finally:
            lab.server.ask(no_pyramids=False)

    def test_files_outside_of_the_repository_are_not_opened(self, lab: Ward, direct: OmeroRepository) -> None:
        plate = direct.plate(lab.outside)
        (told,) = direct.told_of([plate.wells[0].fields[0].images[0]])
        assert "come through the OMERO server" in told
        assert "outside of" in told

    def test_a_session_that_ends_in_mid_run(self, lab: Ward, ada: OmeroRepository) -> None:
        lab.server.ask(slow_s=0.3)
        try:
            going = projected(ada, "drawn")
            until = time.monotonic() + 30
            while not going.progress.stages[0].done:
                assert time.monotonic() < until
                time.sleep(0.05)
            lab.server.ask(close_sessions=True)
            with pytest.raises(OpenHCSError, match=r"has ended[\s\S]*--resume"):
                going.result()
        finally:
            lab.server.ask(slow_s=0)
        with lab.join("ada") as again:
            pipeline = Pipeline([Step(max_projection, save=True, name="mip")], name="projected")
            plan = compile(pipeline, again.plate("drawn"), discover(), workers=1)
            assert run(plan, resume="last").result().status == "done"


class TestOmeZarr:
    def test_registered_images_are_read_in_place(self, lab: Ward, direct: OmeroRepository) -> None:
        check(direct, lab.zarr, lab.zarr_made)
        images = [field.images[0] for _, field in direct.plate(lab.zarr).fields()]
        assert direct.told_of(images) == ("4 of 4 images are read in place.",)
        lab.server.ask(calls=True)
        direct.open(images[2]).plane(0, 1, 2)
        assert not [call for call in lab.server.ask(calls=True)["calls"] if call.startswith("RawPixels")]

    def test_those_outside_of_the_repository_come_through_the_server(self, lab: Ward, direct: OmeroRepository) -> None:
        plate = direct.plate(lab.zarr_elsewhere)
        (told,) = direct.told_of([plate.wells[0].fields[0].images[0]])
        assert "lies outside of" in told

    def test_those_that_are_not_what_the_server_gives(self, lab: Ward, direct: OmeroRepository) -> None:
        image = direct.plate(lab.zarr).wells[0].fields[0].images[0]
        folder = Path(direct.places_of(lab.zarr)[image.id].zarr)
        chunk = folder / "0" / "0" / "0" / "0" / "0" / "0"
        away = chunk.rename(folder / "away")
        try:
            told = direct.told_of([direct.plate(lab.zarr).wells[0].fields[0].images[0]])
        finally:
            away.rename(chunk)
        assert "not what the server gives" in told[0]


class TestDatasets:
    @pytest.mark.parametrize("name", ["Dataset:{0}", "controls", "https://omero.lab/webclient/?show=dataset-{0}"])
    def test_the_images_of_a_dataset_are_fields_of_one_well(self, lab: Ward, ada: OmeroRepository, name: str) -> None:
        check(ada, name.format(lab.dataset), lab.dataset_made)

    def test_a_single_image(self, lab: Ward, ada: OmeroRepository) -> None:
        image = ada.plate("controls").wells[0].fields[1].images[0].id
        plate = ada.plate(f"Image:{image}")
        assert [field.images[0].id for _, field in plate.fields()] == [image]
        assert ada.plate(plate.id).name == plate.name == "controls 2"
        assert ada.plate("Image:controls 2") == plate

    def test_wells_and_images_of_a_plate_stand_for_their_part_of_it(self, lab: Ward, ada: OmeroRepository) -> None:
        whole = ada.plate("drawn")
        well = whole.wells[1]
        names = (f"Well:{well.id}", "drawn/B02", f"{whole.id}/b2", f"Plate:{whole.id}/B02", "Well:drawn/B02")
        assert [ada.plate(name).wells for name in names] == [(well,)] * len(names)
        assert ada.cell_name(whole.id, "drawn/B02") == "drawn/B02"
        with pytest.raises(RepositoryError, match=r"has no images in H12 .*\n.*some in A01, B02"):
            ada.plate("drawn/H12")
        with pytest.raises(RepositoryError, match=r"There is no plate or dataset 'nowhere'"):
            ada.plate("nowhere/B02")
        (part,) = ada.plate(f"https://x/webclient/?show=image-{well.fields[1].images[0].id}").wells
        assert (part.name, part.fields) == ("B02", well.fields[1:])

    def test_results_stand_in_a_dataset_beside_it(self, lab: Ward, ada: OmeroRepository) -> None:
        steps = [
            Step(max_projection, save=True, name="mip"),
            Step(blocks, channel="DAPI", outputs=Labels("blocks")),
            Step(sizes, inputs={"labels": "blocks"}, outputs=Table("sizes")),
        ]
        plate = ada.plate("controls")
        done = run(compile(Pipeline(steps, name="around"), plate, discover(), save=True, workers=1)).result()
        with closing(lab.login("ada")) as gateway:
            project = gateway.getObject("Project", lab.project)
            made = next(one for one in project.listChildren() if one.getName() == "controls around mip")
            images = sorted(made.listChildren(), key=lambda image: image.getName())
            expected = np.max([lab.dataset_made.plane("A01", 2, 1, z) for z in range(3)], axis=0)
            np.testing.assert_array_equal(images[1].getPrimaryPixels().getPlane(0, 1, 0), expected)
            source = gateway.getObject("Dataset", lab.dataset)
            assert "openmicroscopy.org/omero/bulk_annotations" in {one.getNs() for one in source.listAnnotations()}
            rois = gateway.getRoiService().findByImage(plate.wells[0].fields[0].images[0].id, None).rois
            assert len(rois) == 4
        kept = ada.trace(f"Dataset:{made.getId()}")
        assert kept.record.id == done.id
        before = names_of(ada)
        saved = len([spec for spec in done.plan.results if spec.kind == "image"])
        assert f"{saved} Dataset" in ada.delete_results(done.id)
        after = names_of(ada)
        assert before["Image"] - after["Image"] == 2 * saved
        assert before["Roi"] - after["Roi"] == 8


class TestResults:
    def test_a_group_that_is_read_only_is_told_before_anything_is_computed(
        self, lab: Ward, ada: OmeroRepository
    ) -> None:
        before = names_of(ada)
        started = time.monotonic()
        with pytest.raises(OpenHCSError, match=r"You may read Plate \d+ \(of grace\), but"):
            projected(ada, lab.read_only, save=True).result()
        assert time.monotonic() - started < 20
        assert names_of(ada) == before

    def test_a_table_of_771_columns(self, lab: Ward, ada: OmeroRepository) -> None:
        steps = [Step(wide, outputs=Table("wide"))]
        plate = ada.plate("drawn")
        done = run(compile(Pipeline(steps, name="wide"), plate, discover(), save=True, workers=1)).result()
        found: dict[str, list[Any]] = {}
        headers = []
        rows = _ask(
            ada, f"select a.file.id, a.file.name from FileAnnotation a where a.description like '%{done.id} wide%'"
        )
        for number, _ in sorted(rows, key=lambda row: row[1]):
            import omero.model

            table = ada.connection.session.sharedResources().openTable(
                omero.model.OriginalFileI(number, False), ada.connection.everywhere
            )
            headers.append([header.name for header in table.getHeaders()])
            read = table.read(list(range(len(headers[-1]))), 0, table.getNumberOfRows())
            found |= {column.name: list(column.values) for column in read.columns}
            table.close()
        expected = done.table("wide")
        assert len(expected.columns) >= _FEATURES
        assert [len(names) for names in headers] == [512, len(expected.columns) + 2 * 2 - 512]
        assert all(names[:2] == ["Well", "Image"] for names in headers)
        for name in expected.columns:
            assert found[name] == list(expected[name])

    def test_thousands_of_objects_come_and_go(self, lab: Ward, ada: OmeroRepository) -> None:
        steps = [Step(many, channel="DAPI", outputs=Labels("many"))]
        before = names_of(ada)
        done = run(compile(Pipeline(steps, name="many"), ada.plate("drawn"), discover(), save=True, workers=2)).result()
        assert names_of(ada)["Roi"] - before["Roi"] == 4 * _LABELS
        ada.delete_results(done.id)
        assert names_of(ada) == before


_LABELS = 12 * 32


def many(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:24, :32]
    return stack, np.broadcast_to((y // 2 * 32 + x + 1).astype(np.int32), stack.shape)


def blocks(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:24, :32]
    return stack, np.broadcast_to((y // 12 * 2 + x // 16 + 1).astype(np.int32), stack.shape)


@measure()
def sizes(stack: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    numbers, counts = np.unique(labels[labels > 0], return_counts=True)
    return pd.DataFrame({"label": numbers, "size": counts})


@measure()
def wide(stack: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({f"feature {number}": [float(number)] for number in range(_FEATURES)})
