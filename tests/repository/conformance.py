"""What any repository must do: a suite that each implementation runs on a plate of its own.

Subclass `RepositoryConformance` and give it two fixtures: `repository`, open and holding the plate, and `made`, which
knows what the plate's pixels are.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, Image, Plate, ResultSpec, RunRecord
from openhcs_jupyter.repository import FieldResults, Repository, connect
from tests.plates import MadePlate


def sum_of_plane(uri: str, image: Image) -> int:
    """Read a plane as a worker process does."""
    with connect(uri) as repository, repository.open(image) as pixels:
        return int(pixels.plane(0, 0, 0).sum())


class RepositoryConformance:
    """The suite; the plate has at least two wells, two fields, two channels, and two slices."""

    @pytest.fixture
    def plate(self, repository: Repository) -> Plate:
        return repository.plate(repository.plates()[0].id)

    def test_the_list_tells_what_a_plate_holds(self, repository: Repository, made: MadePlate) -> None:
        (summary,) = repository.plates()
        fields = len(made.wells) * made.fields
        assert (summary.wells, summary.fields, summary.channels) == (len(made.wells), fields, made.channels)
        assert summary.planes == fields * len(made.channels) * made.z
        assert summary.bytes == summary.planes * made.plane(made.wells[0], 1, 0, 0).nbytes
        assert summary.problems == ()

    def test_a_plate_is_found_by_id_and_by_name(self, repository: Repository) -> None:
        (summary,) = repository.plates()
        assert repository.plate(summary.id) == repository.plate(str(summary.id)) == repository.plate(summary.name)

    @pytest.mark.parametrize("unknown", [4711, "4711", "no such plate"])
    def test_an_unknown_plate_is_an_error_that_lists_the_plates(
        self, repository: Repository, unknown: int | str
    ) -> None:
        with pytest.raises(RepositoryError, match=repository.plates()[0].name):
            repository.plate(unknown)

    def test_a_plate_has_its_wells_and_fields_in_order(self, plate: Plate, made: MadePlate) -> None:
        assert tuple(well.name for well in plate.wells) == made.wells
        for well in plate.wells:
            assert [field.number for field in well.fields] == list(range(1, made.fields + 1))
        assert plate.rows > plate.wells[-1].row
        assert plate.columns > plate.wells[-1].column

    def test_ids_are_unique(self, plate: Plate) -> None:
        images = [image.id for _, field in plate.fields() for image in field.images]
        fields = [field.id for _, field in plate.fields()]
        wells = [well.id for well in plate.wells]
        assert all(len(set(ids)) == len(ids) for ids in (images, fields, wells))

    def test_loading_a_plate_twice_gives_equal_values(self, repository: Repository, plate: Plate) -> None:
        assert repository.plate(plate.id) == plate

    def test_channels_are_named_in_the_order_of_their_index(self, plate: Plate, made: MadePlate) -> None:
        assert tuple(channel.name for channel in plate.channels) == made.channels

    def test_the_uri_and_the_plate_name_the_same_repository(self, repository: Repository, plate: Plate) -> None:
        assert plate.repository == repository.uri

    def test_every_plane_has_the_pixels_of_its_well_field_channel_and_slice(
        self, repository: Repository, plate: Plate, made: MadePlate
    ) -> None:
        for well, field in plate.fields():
            image = field.image("stack")
            assert image is not None
            with repository.open(image) as pixels:
                for c in range(len(made.channels)):
                    for z in range(made.z):
                        assert image.layout.has(0, c, z)
                        np.testing.assert_array_equal(pixels.plane(0, c, z), made.plane(well.name, field.number, c, z))

    def test_a_stack_has_the_planes_in_the_order_that_was_asked_for(self, repository: Repository, plate: Plate) -> None:
        with repository.open(plate.wells[0].fields[0].images[0]) as pixels:
            for slices in ((1,), (1, 0)):
                stack = pixels.read(0, 1, slices)
                assert stack.dtype.isnative
                np.testing.assert_array_equal(stack, np.stack([pixels.plane(0, 1, z) for z in slices]))

    def test_planes_are_as_the_layout_says_and_cannot_be_written(self, repository: Repository, plate: Plate) -> None:
        image = plate.wells[0].fields[0].images[0]
        with repository.open(image) as pixels:
            plane = pixels.plane(0, 0, 0)
        assert plane.shape == (image.layout.size_y, image.layout.size_x)
        assert plane.dtype == np.dtype(image.layout.dtype)
        assert plane.dtype.isnative
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 1

    def test_planes_stay_valid_after_closing(self, repository: Repository, plate: Plate, made: MadePlate) -> None:
        pixels = repository.open(plate.wells[0].fields[0].images[0])
        plane = pixels.plane(0, 0, 0)
        pixels.close()
        del pixels
        np.testing.assert_array_equal(plane, made.plane(made.wells[0], 1, 0, 0))

    @pytest.mark.parametrize("index", [(1, 0, 0), (0, 99, 0), (0, 0, 99), (0, 0, -1)])
    def test_a_plane_that_is_not_there_is_an_error(
        self, repository: Repository, plate: Plate, index: tuple[int, int, int]
    ) -> None:
        image = plate.wells[0].fields[0].images[0]
        assert not image.layout.has(*index)
        with (
            repository.open(image) as pixels,
            pytest.raises(RepositoryError, match=r"no plane at t=-?\d+, c=-?\d+, z="),
        ):
            pixels.plane(*index)
        t, c, z = index
        with repository.open(image) as pixels, pytest.raises(RepositoryError, match="no plane at"):
            pixels.read(t, c, (z,))

    def test_an_unknown_image_is_an_error(self, repository: Repository, plate: Plate) -> None:
        image = msgspec.structs.replace(plate.wells[0].fields[0].images[0], id=987654321)
        with pytest.raises(RepositoryError, match="987654321"):
            repository.open(image)

    def test_an_image_of_another_version_is_an_error(self, repository: Repository, plate: Plate) -> None:
        image = msgspec.structs.replace(plate.wells[0].fields[0].images[0], version="of another time")
        with pytest.raises(RepositoryError, match="again"):
            repository.open(image)

    def test_many_threads_read_at_once(self, repository: Repository, plate: Plate, made: MadePlate) -> None:
        places = [(well.name, field.number, field.images[0]) for well, field in plate.fields()] * 8

        def read(place: tuple[str, int, Image]) -> bool:
            well, number, image = place
            with repository.open(image) as pixels:
                return bool(np.array_equal(pixels.plane(0, 1, 1), made.plane(well, number, 1, 1)))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, places))

    def test_another_process_opens_it_by_its_uri(self, repository: Repository, plate: Plate, made: MadePlate) -> None:
        image = plate.wells[0].fields[0].images[0]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seen = pool.apply(sum_of_plane, (repository.uri, image))
        assert seen == made.plane(made.wells[0], 1, 0, 0).sum()

    def test_a_forked_process_reads_too(self, repository: Repository, plate: Plate, made: MadePlate) -> None:
        image = plate.wells[0].fields[0].images[0]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            seen = pool.apply(sum_of_plane, (repository.uri, image))
        assert seen == made.plane(made.wells[0], 1, 0, 0).sum()
        assert repository.plate(plate.id) == plate

    def test_a_closed_repository_says_so(self, repository: Repository) -> None:
        repository.close()
        with pytest.raises(RepositoryError, match="closed"):
            repository.plates()

    def test_results_are_published_by_finishing_and_not_before(self, repository: Repository, plate: Plate) -> None:
        record = run_record(repository, plate)
        spec = ResultSpec(name="copy", kind="image", step=0, scope="field", channels=("DAPI",))
        field = plate.wells[0].fields[0]
        results = FieldResults(
            well=plate.wells[0].name,
            field=field.number,
            arrays={"copy": np.ones((1, 1, 1, 16, 16), np.uint16)},
            pixel_size_um=0.5,
            z_step_um=None,
        )
        writer = repository.writer(record)
        writer.begin([spec], [Channel(name="DAPI")], plate.rows, plate.columns)
        repository.writer(record).write_field(results)
        where = writer.finish([(results.well, results.field)], {"provenance.json": b"{}"})
        assert record.id in where


def run_record(repository: Repository, plate: Plate) -> RunRecord:
    """Make the record of a run that did nothing."""
    return RunRecord(
        id="run-of-the-suite",
        name="suite",
        repository=repository.uri,
        plate_id=plate.id,
        plate_name=plate.name,
        source="",
        source_name="conformance",
        options={},
        user="tester",
        host="here",
        started="2026-01-01T00:00:00+00:00",
        versions={},
        inputs={},
    )
