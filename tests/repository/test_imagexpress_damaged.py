"""ImageXpress plates in which files are missing, damaged, unlike the others or moved."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.plates import MakePlate
from tests.repository.images import layout_of, write_images


def test_a_missing_file_is_a_hole_and_named(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate()
    for z in (0, 2):
        made.file("B02", 2, 1, z).unlink()
    summary = repository.import_plate(made.folder)
    assert summary.problems == ("B02 field 2, channel GFP has no file at z=0,2",)
    assert summary.planes == 22
    plate = repository.plate(summary.id)
    assert layout_of(plate, "B02", 2).missing == ((0, 1, 0), (0, 1, 2))
    assert layout_of(plate, "B02", 1).missing == ()


def test_a_field_that_other_wells_have_is_named(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(z=1)
    for c in (0, 1):
        made.file("B02", 2, c, 0).unlink()
    assert repository.import_plate(made.folder).problems == ("B02 lacks field 2, which other wells have",)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("keep", "says"), [(0.6, "is truncated"), (0.0, "is empty"), (0.001, "is not a readable TIFF")]
)
def test_a_damaged_file_is_a_hole_and_named(
    repository: EmbeddedRepository, make_plate: MakePlate, compression: str | None, keep: float, says: str
) -> None:
    made = make_plate(size=(64, 64), compression=compression)
    path = made.file("B02", 1, 0, 1)
    os.truncate(path, int(path.stat().st_size * keep))
    summary = repository.import_plate(made.folder)
    (problem,) = summary.problems
    assert problem.startswith(f"{path} {says}")
    assert problem.endswith("(B02 field 1, channel DAPI, z=1)")
    plate = repository.plate(summary.id)
    assert layout_of(plate, "B02", 1).missing == ((0, 0, 1),)
    with repository.open(plate.wells[1].fields[0].images[0]) as pixels:
        assert pixels.plane(0, 0, 0).shape == (64, 64)
        with pytest.raises(RepositoryError, match="no plane"):
            pixels.plane(0, 0, 1)


def test_a_colour_image_is_a_hole_and_named(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    made = make_plate(z=1)
    path = made.file("A01", 1, 0, 0)
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    (problem,) = repository.import_plate(made.folder).problems
    assert problem.startswith(f"{path} is a colour image")


def test_damaged_compressed_pixels_are_an_error_that_names_the_file(
    repository: EmbeddedRepository, make_plate: MakePlate
) -> None:
    made = make_plate(size=(64, 64), compression="zlib")
    path = made.file("A01", 1, 0, 0)
    with tifffile.TiffFile(path) as file:
        start, count = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start : start + count] = bytes(count)
    path.write_bytes(data)
    plate = repository.plate(repository.import_plate(made.folder).id)
    with repository.open(plate.wells[0].fields[0].images[0]) as pixels:
        with pytest.raises(RepositoryError, match=re.escape(f"{path} cannot be decoded")):
            pixels.plane(0, 0, 0)
        np.testing.assert_array_equal(pixels.plane(0, 0, 1), made.plane("A01", 1, 0, 1))


def test_a_plate_of_damaged_files_alone_is_an_error(repository: EmbeddedRepository, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "A01_s1_w1.tif").write_bytes(b"no image")
    with pytest.raises(RepositoryError, match=r"None of the 1 images in .* can be read:\n.*A01_s1_w1.tif is not a"):
        repository.import_plate(tmp_path / "p")


def test_a_field_of_another_size_has_its_own_layout(repository: EmbeddedRepository, tmp_path: Path) -> None:
    write_images(tmp_path / "p", "A01_s1_w1.tif", "A01_s1_w2.tif", size=(8, 8))
    write_images(tmp_path / "p", "A01_s2_w1.tif", "A01_s2_w2.tif", size=(8, 16))
    summary = repository.import_plate(tmp_path / "p")
    (problem,) = summary.problems
    assert problem.startswith("images differ in size or type: 8 x 8 uint16 in 1 field(s), such as A01 field 1; ")
    assert problem.endswith("; 8 x 16 uint16 in 1 field(s), such as A01 field 2")
    plate = repository.plate(summary.id)
    assert [layout_of(plate, number=number).size_x for number in (1, 2)] == [8, 16]
    assert summary.bytes == 2 * 8 * 8 * 2 + 2 * 8 * 16 * 2


def test_a_plane_unlike_the_rest_of_its_field_is_a_hole_and_named(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    write_images(tmp_path / "p", "A01_s1_w1.tif", "A01_s1_w2.tif", size=(8, 8))
    write_images(tmp_path / "p", "A01_s1_w3.tif", size=(4, 4))
    summary = repository.import_plate(tmp_path / "p")
    (problem,) = summary.problems
    assert "A01_s1_w3.tif was left out: it has 4 x 4 uint16, most planes of the field do not" in problem
    assert layout_of(repository.plate(summary.id)).missing == ((0, 2, 0),)


def test_of_two_files_for_one_plane_the_newer_is_taken(repository: EmbeddedRepository, tmp_path: Path) -> None:
    guids = ["E94C24BD-45E4-450A-9919-257C714278F7", "2B14915F-6067-4494-82D1-F80894B32A66"]
    folder = write_images(tmp_path / "p", *(f"A01_s1_w1{guid}.tif" for guid in guids))
    os.utime(folder / f"A01_s1_w1{guids[1]}.tif", ns=(1, 1))
    summary = repository.import_plate(folder)
    (problem,) = summary.problems
    assert problem.startswith(f"{folder}/A01_s1_w1{guids[1]}.tif was left out")
    with repository.open(repository.plate(1).wells[0].fields[0].images[0]) as pixels:
        assert pixels.plane(0, 0, 0)[0, 0] == 0


def test_endless_problems_are_counted_rather_than_listed(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "A01_s1_w1.tif")
    for number in range(2, 252):
        (folder / f"A01_s{number}_w1.tif").touch()
    problems = repository.import_plate(folder).problems
    assert len(problems) == 201
    assert problems[-1] == "and 50 more"


def test_a_plate_that_was_moved_says_where_it_was(
    repository: EmbeddedRepository, make_plate: MakePlate, tmp_path: Path
) -> None:
    made = make_plate()
    plate = repository.plate(repository.import_plate(made.folder).id)
    shutil.move(made.folder, tmp_path / "moved")
    with pytest.raises(RepositoryError, match=f"{made.folder}/.* is gone"):
        repository.open(plate.wells[0].fields[0].images[0])
