"""ImageXpress plates: names, folders, headers, and everything that real acquisitions have wrong with them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Plate, well_name
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats.imagexpress import ImageName, parse_name
from tests.plates import PIXEL_SIZE_UM, Z_STEP_UM, MakePlate
from tests.repository.images import layout_of, write_images

# Names

numbers = st.integers(1, 99)
guids = st.uuids().map(lambda guid: str(guid).upper())
plates = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 _.#-]{0,20}", fullmatch=True)


@given(
    plate=plates,
    row=st.integers(0, 31),
    column=st.integers(0, 47),
    site=st.none() | st.integers(1, 999),
    wave=st.none() | numbers,
    guid=st.none() | guids,
    z=st.none() | numbers,
    t=st.none() | numbers,
    suffix=st.sampled_from([".tif", ".TIF", ".tiff", ".Tiff"]),
)
def test_a_name_says_what_was_put_in(
    plate: str | None,
    row: int,
    column: int,
    site: int | None,
    wave: int | None,
    guid: str | None,
    z: int | None,
    t: int | None,
    suffix: str,
) -> None:
    stem = f"{plate}_" if plate is not None else ""
    stem += well_name(row, column)
    stem += "".join(f"_{key}{value}" for key, value in (("s", site), ("w", wave)) if value is not None)
    stem += guid or ""
    stem += "".join(f"_{key}{value}" for key, value in (("z", z), ("t", t)) if value is not None)
    expected = ImageName(
        plate=plate, row=row, column=column, site=site or 1, wave=wave or 1, z=z, t=t, guid=guid is not None
    )
    if plate is not None and "thumb" in plate.lower():
        return
    assert parse_name(stem + suffix) == expected


@given(st.text())
def test_no_name_is_too_strange(name: str) -> None:
    found = parse_name(name)
    assert found is None or re.search(r"[A-Z]{1,2}[0-9]{1,2}", name)


@pytest.mark.parametrize(
    "name",
    [
        "Projection-Mix_E07_s1_w1_thumb4BFD4018-E675-475E-B5AB-2E959E6B6DA1.tif",
        "plate_A01_s1_w1_THUMB.tif",
        "plate_A01_s1_w1.txt",
        "plate_A01_s0_w1.tif",
        "plate_A01_s1_w0.tif",
        "plate_A00_s1_w1.tif",
        "plate_A49_s1_w1.tif",
        "plate_ZZ01_s1_w1.tif",
        "AssayPlate_D08_T0001F001L01A01Z01C01.tif",
        "overview.tif",
    ],
)
def test_other_files_are_no_images(name: str) -> None:
    assert parse_name(name) is None


def test_a_guid_that_starts_with_digits_is_told_from_the_wavelength() -> None:
    found = parse_name("Projection-Mix_E08_s1_w117654C10-92F1-4DFD-98AA-6A01BBD77557.tif")
    assert found is not None
    assert (found.plate, found.wave, found.guid) == ("Projection-Mix", 1, True)


# The real acquisition


@pytest.fixture
def real(repository: EmbeddedRepository, real_plates: Path) -> Plate:
    return repository.plate(repository.import_plate(real_plates / "imagexpress").id)


def test_the_real_plate_is_found_from_above_and_below(repository: EmbeddedRepository, real_plates: Path) -> None:
    acquisition = next(real_plates.glob("imagexpress/*/*/*"))
    folders = [real_plates / "imagexpress", acquisition.parent, acquisition, acquisition / "ZStep_3"]
    summaries = [repository.import_plate(folder) for folder in folders]
    assert all(summary == summaries[0] for summary in summaries)
    assert (summaries[0].name, summaries[0].format) == ("Projection-Mix", "ImageXpress")
    assert summaries[0].source == str(acquisition)
    assert (summaries[0].wells, summaries[0].fields, summaries[0].planes) == (2, 4, 96)


def test_the_real_plate_has_a_stack_and_a_projection_with_holes_where_nothing_was_taken(real: Plate) -> None:
    assert [well.name for well in real.wells] == ["E07", "E08"]
    ten = tuple(range(10))
    for _, field in real.fields():
        stack, projection = field.image("stack"), field.image("projection")
        assert stack is not None
        assert projection is not None
        assert [stack.layout.slices(0, c) for c in range(4)] == [ten, ten, (), (0,)]
        assert [projection.layout.slices(0, c) for c in range(4)] == [(0,), (0,), (0,), ()]
        assert (stack.layout.size_y, stack.layout.size_x, stack.layout.dtype) == (512, 512, "uint16")


def test_the_real_plate_says_what_its_channels_lack(repository: EmbeddedRepository, real: Plate) -> None:
    (summary,) = repository.plates()
    assert summary.problems == (
        "channel w3 has a projection only, no stack",
        "channel w4 has 1 of 10 z-steps: z=0",
    )


def test_the_real_plate_has_its_metadata(real: Plate) -> None:
    layout = layout_of(real, "E07")
    assert (layout.pixel_size_um, layout.z_step_um) == (1.3668, 5.0)
    assert [channel.name for channel in real.channels] == ["w1", "w2", "w3", "w4"]
    assert {channel.emission_nm for channel in real.channels} == {536.0}
    first, second = real.wells[0].fields
    assert first.position_um == (41385.4, 79813.4)
    assert second.position_um == (41385.4, 80513.3)


def test_the_real_planes_are_those_of_their_files(
    repository: EmbeddedRepository, real: Plate, real_plates: Path
) -> None:
    acquisition = next(real_plates.glob("imagexpress/*/*/*"))
    field = real.wells[1].fields[1]
    for kind, index, pattern in (
        ("stack", (0, 1, 6), "ZStep_7/*_E08_s2_w2*.tif"),
        ("stack", (0, 3, 0), "ZStep_1/*_E08_s2_w4*.tif"),
        ("projection", (0, 2, 0), "*_E08_s2_w3*.tif"),
    ):
        (path,) = (path for path in acquisition.glob(pattern) if "thumb" not in path.name)
        image = field.image(kind)
        assert image is not None
        with repository.open(image) as pixels:
            np.testing.assert_array_equal(pixels.plane(*index), tifffile.imread(path))


def test_the_real_thumbnails_are_left_out_without_a_word(repository: EmbeddedRepository, real: Plate) -> None:
    assert not any("thumb" in problem for problem in repository.plates()[0].problems)


# Folders


@pytest.mark.parametrize(
    "names",
    [
        ["A01_s1_w1.tif", "A01_s1_w2.tif"],
        ["plate_A01_w1.tif", "plate_A01_w2.tif"],
        ["TimePoint_1/plate_A01_s1_w1.TIF", "TimePoint_1/plate_A01_s1_w2.TIF"],
        ["timepoint_1/zstep_1/A01_s1_w1.tif", "timepoint_1/zstep_1/A01_s1_w2.tif"],
        ["ZStep_1/TimePoint_1/A01_s1_w1.tiff", "ZStep_1/TimePoint_1/A01_s1_w2.tiff"],
        ["A01_s1_w1_z1.tif", "A01_s1_w2_z1.tif"],
        ["A01_s1_w1_z001_t001.tif", "A01_s1_w2_z001_t001.tif"],
    ],
)
def test_one_field_of_two_channels_in_all_its_forms(
    repository: EmbeddedRepository, tmp_path: Path, names: list[str]
) -> None:
    summary = repository.import_plate(write_images(tmp_path / "plate", *names))
    plate = repository.plate(summary.id)
    assert summary.problems == ()
    assert [channel.name for channel in plate.channels] == ["w1", "w2"]
    ((well, field),) = plate.fields()
    assert (well.name, field.number) == ("A01", 1)
    (image,) = field.images
    assert (image.kind, image.layout.size_t, image.layout.size_c, image.layout.size_z) == ("stack", 1, 2, 1)
    with repository.open(image) as pixels:
        assert [int(pixels.plane(0, c, 0)[0, 0]) for c in (0, 1)] == [0, 1]


def test_a_single_image_without_site_and_wavelength_is_a_plate(repository: EmbeddedRepository, tmp_path: Path) -> None:
    summary = repository.import_plate(write_images(tmp_path / "p", "assay 3_C05.tif"))
    assert (summary.name, summary.channels, summary.planes) == ("assay 3", ("w1",), 1)


def test_time_points_and_slices_are_counted_from_the_first(repository: EmbeddedRepository, tmp_path: Path) -> None:
    names = [f"TimePoint_{t}/ZStep_{z}/A01_s1_w1.tif" for t in (3, 4) for z in (9, 10, 11)]
    plate = repository.plate(repository.import_plate(write_images(tmp_path / "p", *names)).id)
    layout = layout_of(plate)
    assert (layout.size_t, layout.size_z, layout.missing) == (2, 3, ())
    with repository.open(plate.wells[0].fields[0].images[0]) as pixels:
        values = [int(pixels.plane(t, 0, z)[0, 0]) for t in (0, 1) for z in (0, 1, 2)]
    assert values == list(range(6))


def test_projections_of_each_time_point(repository: EmbeddedRepository, tmp_path: Path) -> None:
    names = [f"TimePoint_{t}/{level}A01_s1_w1.tif" for t in (1, 2) for level in ("", "ZStep_1/", "ZStep_2/")]
    plate = repository.plate(repository.import_plate(write_images(tmp_path / "p", *names)).id)
    stack, projection = layout_of(plate), layout_of(plate, kind="projection")
    assert (stack.size_t, stack.size_z) == (2, 2)
    assert (projection.size_t, projection.size_z, projection.missing) == (2, 1, ())


def test_a_folder_with_several_plates_is_an_error_that_lists_them(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    write_images(tmp_path / "screen", "one/TimePoint_1/A01_s1_w1.tif", "two/ZStep_1/A01_s1_w1.tif")
    with pytest.raises(RepositoryError, match=r"holds 2 plates:(?s:.)*/one (?s:.)*/two ") as raised:
        repository.import_plate(tmp_path / "screen")
    assert raised.value.hint == "Import them one at a time."


def test_images_in_other_folders_of_the_plate_are_left_out_and_named(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "p", "A01_s1_w1.tif", "old results/A01_s1_w1.tif")
    summary = repository.import_plate(folder)
    assert summary.planes == 1
    assert summary.problems == (f"1 image(s) in {folder}/old results are not in a MetaXpress folder and were left out",)


def test_tiff_files_with_other_names_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "A01_s1_w1.tif", "A01_s1_w1_thumb.tif", "overview.tif")
    assert repository.import_plate(folder).problems == (
        "1 TIFF file(s) are not named like images and were left out: overview.tif",
    )


def test_links_that_lead_in_circles_are_walked_once(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "ZStep_1/A01_s1_w1.tif")
    write_images(tmp_path / "elsewhere", "A01_s1_w1.tif")
    (folder / "ZStep_2").symlink_to(tmp_path / "elsewhere")
    (folder / "ZStep_1" / "back").symlink_to(folder)
    summary = repository.import_plate(folder)
    assert (summary.planes, summary.problems) == (2, ())


# What the microscope wrote


def test_an_htd_file_names_channels_and_size(repository: EmbeddedRepository, make_plate: MakePlate) -> None:
    plate = repository.plate(repository.import_plate(make_plate().folder).id)
    assert [channel.name for channel in plate.channels] == ["DAPI", "GFP"]
    assert [channel.emission_nm for channel in plate.channels] == [450.0, 525.0]
    assert (plate.rows, plate.columns) == (8, 12)
    layout = layout_of(plate)
    assert (layout.pixel_size_um, layout.z_step_um) == (PIXEL_SIZE_UM, Z_STEP_UM)
    second = plate.wells[1].fields[1]
    assert second.position_um == (9000.0, 9000 + 32 * PIXEL_SIZE_UM)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["DAPI", "Cy5"], ["DAPI", "Cy5"]),
        (["Cy-3", "Cy-5"], ["Cy-3", "Cy-5"]),
        (["A &amp; B", "C"], ["A & B", "C"]),
        (["FITC", "FITC-2"], ["w1", "w2"]),
        (["FITC", "FITC"], ["w1", "w2"]),
        (["FITC", ""], ["w1", "w2"]),
    ],
)
def test_headers_name_channels_where_they_tell_them_apart(
    repository: EmbeddedRepository, tmp_path: Path, written: list[str], names: list[str]
) -> None:
    for c, name in enumerate(written):
        text = f'<MetaData><prop id="image-name" type="string" value="{name}"/></MetaData>'
        write_images(tmp_path / "p", f"A01_s1_w{c + 1}.tif", description=text)
    assert list(repository.import_plate(tmp_path / "p").channels) == names


@pytest.mark.parametrize(("well", "size"), [("A01", (8, 12)), ("P24", (16, 24)), ("AF48", (32, 48))])
def test_the_plate_is_the_smallest_that_has_the_well(
    repository: EmbeddedRepository, tmp_path: Path, well: str, size: tuple[int, int]
) -> None:
    plate = repository.plate(repository.import_plate(write_images(tmp_path / "p", f"{well}_s1_w1.tif")).id)
    assert (plate.rows, plate.columns) == size


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_pixel_types_byte_orders_and_compressions(
    repository: EmbeddedRepository, make_plate: MakePlate, dtype: str, byteorder: str, compression: str | None
) -> None:
    made = make_plate(
        wells=("A01",), fields=1, channels=("DAPI",), z=1, dtype=dtype, byteorder=byteorder, compression=compression
    )
    plate = repository.plate(repository.import_plate(made.folder).id)
    assert layout_of(plate).dtype == dtype
    with repository.open(plate.wells[0].fields[0].images[0]) as pixels:
        np.testing.assert_array_equal(pixels.plane(0, 0, 0), made.plane("A01", 1, 0, 0))


# Time series


def write_series(folder: Path, times: tuple[int, ...], z: int = 1, channels: int = 2, minutes: float = 15.0) -> Path:
    """Write a time series as MetaXpress does: one folder a time point, in which the slices have theirs."""
    for index, time in enumerate(times):
        for c in range(channels):
            for one in range(z):
                level = f"TimePoint_{time}" + (f"/ZStep_{one + 1}" if z > 1 else "")
                path = folder / level / f"series_C03_s2_w{c + 1}{'0' * 8}-0000-0000-0000-{'0' * 12}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                at = f"20260301 {10 + int(index * minutes) // 60}:{int(index * minutes) % 60:02d}:{30 + c}.250"
                tifffile.imwrite(
                    path,
                    np.full((8, 8), 100 * index + 10 * c + one, np.uint16),
                    description=f'<MetaData><prop id="acquisition-time-local" type="time" value="{at}"/></MetaData>',
                    metadata=None,
                )
    return folder


@pytest.mark.parametrize("times", [(1, 2, 3), (2, 4, 9)])
@pytest.mark.parametrize("z", [1, 2])
def test_time_points_are_counted_whatever_their_folders_are_called(
    repository: EmbeddedRepository, tmp_path: Path, times: tuple[int, ...], z: int
) -> None:
    summary = repository.import_plate(write_series(tmp_path / "series", times, z))
    assert (summary.problems, summary.planes) == ((), 3 * 2 * z)
    plate = repository.plate(summary.id)
    (field,) = plate.wells[0].fields
    assert (field.number, field.acquired) == (2, "2026-03-01T10:00:30.250000")
    layout = field.images[0].layout
    assert (layout.size_t, layout.size_z, layout.t_step_s) == (3, z, 900.0)
    with repository.open(field.images[0]) as pixels:
        for t, c, one in np.ndindex(3, 2, z):
            assert (pixels.plane(t, c, one) == 100 * t + 10 * c + one).all()


def test_a_wavelength_that_is_recorded_every_other_time_is_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", (1, 2, 3))
    for path in (folder / "TimePoint_2").glob("*_w2*"):
        path.unlink()
    write_series(tmp_path / "other", (1, 2, 3))
    for path in (tmp_path / "other").rglob("*.tif"):
        shutil.copy(path, folder / path.parent.name / path.name.replace("C03", "C04"))
    assert repository.import_plate(folder).problems == ("C03 field 2, channel w2 has no file at t=1, z=0",)


def test_an_htd_file_that_promises_more_than_there_is_is_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", (1, 2))
    (folder / "series.HTD").write_text('"TimePoints", 3\n"NWavelengths", 2\n"XWells", 12\n"YWells", 8\n')
    assert repository.import_plate(folder).problems == ("the .HTD file says 3 time points, and there are files of 2",)


def test_the_real_plate_says_when_its_fields_were_recorded(real: Plate) -> None:
    assert real.wells[0].fields[0].acquired == "2023-02-21T10:41:56.561000"
