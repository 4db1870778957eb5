"""What all readers share: choosing one, patterns of names, XML that must not be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.cli import main
from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.model import Channel, Plate, well_name
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats import FoundPlate, ImageXpress, NamePattern
from openhcs_jupyter.repository.embedded.formats.metadata import told_apart, z_step
from openhcs_jupyter.repository.embedded.formats.pattern import NamedPlane
from openhcs_jupyter.repository.embedded.formats.xml_files import attributes, elements
from tests.repository.images import write_images


def test_a_reader_that_names_two_channels_alike_is_refused(
    repository: EmbeddedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images(tmp_path / "p", "A01_s1_w1.tif")
    found = FoundPlate(
        name="p", format="Mine", root=folder, channels=(Channel(name="DAPI"), Channel(name="DAPI")), planes=[]
    )
    monkeypatch.setattr(ImageXpress, "read", lambda *_: found)
    with pytest.raises(RepositoryError, match=r"The reader Mine names several channels of .* 'DAPI'"):
        repository.import_plate(folder)


# Patterns


@given(
    row=st.integers(0, 31),
    column=st.integers(0, 47),
    number=st.integers(0, 999),
    channel=st.from_regex(r"[A-Za-z0-9 -]{1,10}", fullmatch=True),
    z=st.integers(0, 999),
    t=st.integers(0, 999),
    prefix=st.text(st.characters(exclude_characters="{}/\0"), max_size=10),
)
def test_a_path_says_what_was_put_in(
    row: int, column: int, number: int, channel: str, z: int, t: int, prefix: str
) -> None:
    pattern = NamePattern(prefix + "+{any}/{well}_s{field}_{channel}_z{z}_t{t}.tif")
    path = f"{prefix}+some text/{well_name(row, column)}_s{number:03d}_{channel}_z{z}_t{t}.tif"
    expected = NamedPlane(row=row, column=column, field=number, channel=channel, z=z, t=t)
    assert pattern.match(path) == expected


_PIECES = ["{well}", "{row}", "{column}", "{field}", "{any}", "{wave}", "{", "}", "{}", "(", "[", "\\", "*", "x", "/"]


@given(st.lists(st.sampled_from(_PIECES), max_size=6).map("".join) | st.text())
def test_a_pattern_is_read_or_refused(text: str) -> None:
    try:
        pattern = NamePattern(text)
    except UsageError:
        return
    assert "{well}" in text or "{row}" in text
    assert pattern.match("\n") is None


@pytest.mark.parametrize(
    ("pattern", "path", "well"),
    [
        ("{well}.tif", "b3.TIF", (1, 2)),
        ("r{row}c{column}.tiff", "r02c03.tiff", (1, 2)),
        ("{row}/{column}.tif", "AF/48.tif", (31, 47)),
        ("r{row}c{column}.tif", "r32c48.tif", (31, 47)),
        ("p(1)[2].{well}.tif", "p(1)[2].A01.tif", (0, 0)),
        ("{well}.tif", "A00.tif", None),
        ("{well}.tif", "ZZ01.tif", None),
        ("r{row}c{column}.tif", "r00c01.tif", None),
        ("{well}.tif", "A01.tif.bak", None),
        ("{any}{well}.tif", "folder/A01.tif", None),
    ],
)
def test_wells_in_their_forms(pattern: str, path: str, well: tuple[int, int] | None) -> None:
    found = NamePattern(pattern).match(path)
    assert (found and (found.row, found.column)) == well


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{well}_{wave}.tif", r"has no use for \{wave\}"),
        ("{well}_}.tif", "has no use for the lone }"),
        ("{well}_{well}.tif", r"has \{well\} twice"),
        ("s{field}.tif", "must say which well"),
        ("{row}.tif", "must say which well"),
        ("{well}{row}{column}.tif", "must say which well"),
        ("{well}{row}.tif", "must say which well"),
        ("{well}_{z}.tif{pages:z}", r"has \{z\} in the names and in the pages"),
        ("{well}.tif{pages:z}{pages:t}", "says twice what pages are"),
        ("{well}.tif{pages:x}", r"has no use for \{pages:x\}"),
    ],
)
def test_a_pattern_that_cannot_be_one_is_an_error(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NamePattern(pattern)


def test_a_folder_is_read_by_its_pattern(repository: EmbeddedRepository, tmp_path: Path) -> None:
    names = [
        f"{well}/s{number}_{channel}_z{z}.tif"
        for well in ("A1", "B2")
        for number in (0, 1)
        for channel in ("ch2", "ch10")
        for z in (4, 8)
    ]
    folder = write_images(tmp_path / "p", *names)
    summary = repository.import_plate(folder, pattern="{well}/s{field}_{channel}_z{z}.tif")
    assert (summary.name, summary.format, summary.problems) == ("p", "TIFF files", ())
    assert summary.channels == ("ch2", "ch10")
    plate = repository.plate(summary.id)
    seen = []
    for _, field in plate.fields():
        with repository.open(field.images[0]) as pixels:
            seen += [int(pixels.plane(0, c, z)[0, 0]) for c in (0, 1) for z in (0, 1)]
    assert seen == list(range(16))
    assert [field.number for field in plate.wells[0].fields] == [1, 2]


def test_names_that_do_not_fit_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "A01.tif", "overview.tif", "deeper/A01.tif")
    summary = repository.import_plate(folder, pattern="{well}.tif")
    assert (summary.planes, summary.channels) == (1, ("1",))
    assert summary.problems == ("1 TIFF file(s) do not fit the pattern and were left out: overview.tif",)


def test_two_names_for_one_plane_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "A01_a.tif", "A01_b.tif")
    (problem,) = repository.import_plate(folder, pattern="{well}_{any}.tif").problems
    assert problem.startswith("1 file(s) were left out, the names of others say the same plane: A01_")


def write_pages(path: Path, shape: tuple[int, ...], **options: object) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)
    tifffile.imwrite(path, values, photometric="minisblack", **{"metadata": None, **options})
    return values


def planes_of(repository: EmbeddedRepository, plate: Plate) -> np.ndarray:
    """Read the first field, ``(T, C, Z, Y, X)``."""
    image = plate.wells[0].fields[0].images[0]
    sizes = image.layout.size_t, image.layout.size_c, image.layout.size_z
    with repository.open(image) as opened:
        planes = [opened.plane(*index) for index in np.ndindex(*sizes)]
    return np.stack(planes).reshape(*sizes, *planes[0].shape)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_are_slices_unless_something_says_otherwise(
    repository: EmbeddedRepository, tmp_path: Path, compression: str | None
) -> None:
    values = write_pages(tmp_path / "p" / "A01.tif", (3, 6, 8), compression=compression)
    summary = repository.import_plate(tmp_path / "p", pattern="{well}.tif")
    assert summary.problems == (
        "1 file(s) have several pages, taken for z; {pages:t} in the pattern would say otherwise",
    )
    np.testing.assert_array_equal(planes_of(repository, repository.plate(summary.id)), values[None, None])
    summary = repository.import_plate(tmp_path / "p", pattern="{well}.tif{pages:t}")
    assert summary.problems == ()
    np.testing.assert_array_equal(planes_of(repository, repository.plate(summary.id)), values[:, None, None])
    summary = repository.import_plate(tmp_path / "p", pattern="{pages:channel}{well}.tif")
    assert summary.channels == ("1", "2", "3")
    np.testing.assert_array_equal(planes_of(repository, repository.plate(summary.id)), values[None, :, None])


def test_pages_go_with_what_the_names_say(repository: EmbeddedRepository, tmp_path: Path) -> None:
    values = {t: write_pages(tmp_path / "p" / f"A01_{t}.tif", (3, 6, 8)) + t for t in (4, 8)}
    for t, pages in values.items():
        tifffile.imwrite(tmp_path / "p" / f"A01_{t}.tif", pages, photometric="minisblack", metadata=None)
    summary = repository.import_plate(tmp_path / "p", pattern="{well}_{t}.tif")
    expected = np.stack([values[4], values[8]])[:, None]
    np.testing.assert_array_equal(planes_of(repository, repository.plate(summary.id)), expected)
    summary = repository.import_plate(tmp_path / "p", pattern="{well}_{z}.tif")
    np.testing.assert_array_equal(
        planes_of(repository, repository.plate(summary.id)), np.stack([values[4], values[8]], 1)[:, None]
    )


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_stacks_of_imagej_say_what_they_are(repository: EmbeddedRepository, tmp_path: Path, byteorder: str) -> None:
    values = write_pages(
        tmp_path / "p" / "A01.tif",
        (2, 3, 4, 6, 8),
        imagej=True,
        byteorder=">",
        resolution=(2.0, 2.0),
        metadata={"axes": "TZCYX", "unit": "um", "spacing": 3.5, "finterval": 20.0},
    )
    summary = repository.import_plate(tmp_path / "p", pattern="{well}.tif")
    plate = repository.plate(summary.id)
    assert (summary.problems, summary.channels) == ((), ("1", "2", "3", "4"))
    np.testing.assert_array_equal(planes_of(repository, plate), values.transpose(0, 2, 1, 3, 4))
    layout = plate.wells[0].fields[0].images[0].layout
    assert (layout.pixel_size_um, layout.z_step_um, layout.t_step_s) == (0.5, 3.5, 20.0)


def test_an_imagej_stack_with_one_header_is_read_whole(repository: EmbeddedRepository, tmp_path: Path) -> None:
    path = tmp_path / "p" / "A01.tif"
    values = write_pages(path, (5, 6, 8), imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as file:
        (first, second) = (file.pages[0].offset, file.pages[1].offset)
        tags = len(file.pages[0].tags)
        assert first < second
    data = bytearray(path.read_bytes())
    end = first + 2 + 12 * tags
    data[end : end + 4] = bytes(4)  # the first page is the last
    path.write_bytes(data)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    summary = repository.import_plate(tmp_path / "p", pattern="{well}.tif")
    np.testing.assert_array_equal(planes_of(repository, repository.plate(summary.id)), values[None, None])


def test_ome_tiff_files_without_a_plate_are_read_by_a_pattern(repository: EmbeddedRepository, tmp_path: Path) -> None:
    values = write_pages(
        tmp_path / "p" / "A01.ome.tif",
        (2, 3, 4, 6, 8),
        ome=True,
        metadata={
            "axes": "TCZYX",
            "Channel": {"Name": ["DAPI", "GFP", "Cy5"], "EmissionWavelength": [450, 520, 670]},
            "PhysicalSizeX": 0.3,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeZ": 1500,
            "PhysicalSizeZUnit": "nm",
            "TimeIncrement": 2,
            "TimeIncrementUnit": "min",
        },
    )
    with pytest.raises(RepositoryError, match="is not a plate that can be read"):
        repository.import_plate(tmp_path / "p")
    summary = repository.import_plate(tmp_path / "p", pattern="{well}.ome.tif")
    plate = repository.plate(summary.id)
    assert [(one.name, one.emission_nm) for one in plate.channels] == [("DAPI", 450), ("GFP", 520), ("Cy5", 670)]
    np.testing.assert_array_equal(planes_of(repository, plate), values)
    layout = plate.wells[0].fields[0].images[0].layout
    assert (layout.pixel_size_um, layout.z_step_um, layout.t_step_s) == (0.3, 1.5, 120)


def test_several_channels_in_files_that_are_named_by_channel_are_told_apart(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    for dye in ("blue", "green"):
        write_pages(tmp_path / "p" / f"A01_{dye}.tif", (2, 6, 8), imagej=True, metadata={"axes": "CYX"})
    summary = repository.import_plate(tmp_path / "p", pattern="{well}_{channel}.tif")
    assert summary.channels == ("blue 1", "blue 2", "green 1", "green 2")


def test_pages_that_contradict_the_names_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    write_pages(tmp_path / "p" / "A01_z1.tif", (3, 6, 8), imagej=True, metadata={"axes": "ZYX"})
    write_pages(tmp_path / "p" / "A02_z1.tif", (6, 8))
    summary = repository.import_plate(tmp_path / "p", pattern="{well}_z{z}.tif")
    assert summary.planes == 1
    assert "A01_z1.tif holds 3 planes along z, and its name says z already (A01 field 1" in summary.problems[0]


def test_colour_images_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "A01.tif")
    tifffile.imwrite(folder / "A02.tif", np.zeros((6, 8, 3), np.uint8), photometric="rgb", metadata=None)
    summary = repository.import_plate(folder, pattern="{well}.tif")
    assert summary.wells == 1
    told = "A02.tif is a colour image, of 3 samples a pixel; planes must be grey-scale (A02 field 1, channel 1, z=0)"
    assert told in summary.problems[0]


@pytest.mark.parametrize(("bigtiff", "size", "pages"), [(False, 32_900, 1), (False, 33_000, 2), (True, 32_900, 1)])
def test_a_file_of_several_pages_that_is_cut_off_is_told(
    repository: EmbeddedRepository, tmp_path: Path, bigtiff: bool, size: int, pages: int
) -> None:
    write_pages(tmp_path / "p" / "A01.tif", (4, 64, 64))
    path = tmp_path / "p" / "A02.tif"
    write_pages(path, (4, 64, 64), bigtiff=bigtiff)
    # A reader that follows the pages from one to the next sees the first pages alone.
    os.truncate(path, size)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == pages
    summary = repository.import_plate(tmp_path / "p", pattern="{well}.tif")
    assert summary.wells == 1
    told = " ".join(summary.problems)
    assert f"{path} is truncated after its page 1" in told or f"{path} is not a readable TIFF file" in told


def test_a_pattern_that_fits_nothing_is_an_error_that_shows_names(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "p", "A01_s1_w1.tif")
    with pytest.raises(RepositoryError, match=r"fits the pattern \{well\}.tif: it has A01_s1_w1.tif"):
        repository.import_plate(folder, pattern="{well}.tif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepositoryError, match="it has no TIFF files"):
        repository.import_plate(tmp_path / "empty", pattern="{well}.tif")


def test_a_shell_imports_by_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_images(tmp_path / "p", "A01 DAPI.tif", "A01 GFP.tif")
    where = ["--repository", str(tmp_path / "repository")]
    assert main(["import", str(folder), "--pattern", "{well} {channel}.tif", *where]) == 0
    assert "TIFF files, 1 wells, 1 fields, 2 planes of DAPI, GFP" in capsys.readouterr().out
    assert main(["import", str(folder), "--pattern", "{channel}.tif", *where]) == 2
    assert "must say which well" in capsys.readouterr().err


# XML


def test_elements_are_read_whole_whatever_their_namespace(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<x:a xmlns:x="urn:x"><x:b x:k="1"><x:c>text</x:c></x:b><x:b k="2"/></x:a>')
    read = [(attributes(element), [child.text for child in element]) for element in elements(path, "b")]
    assert read == [({"k": "1"}, ["text"]), ({"k": "2"}, [])]


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><a/>',
        " " * 70000 + "\n<!DOCTYPE a><a/>",
    ],
)
def test_a_document_type_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(RepositoryError, match=r"a\.xml declares a document type"):
        list(elements(path, "a"))


@pytest.mark.parametrize("text", ["", "no XML", "<a>", "<a><b></a>", "<a>&b;</a>", "\0"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(RepositoryError, match=r"a\.xml is damaged"):
        list(elements(path, "a"))


# Metadata


@given(st.lists(st.tuples(st.sampled_from(["", "DAPI", "GFP", " GFP"]), st.integers()), unique_by=lambda one: one[1]))
def test_names_of_channels_become_unique(channels: list[tuple[str, int]]) -> None:
    names, problems = told_apart([name for name, _ in channels], [f"C{mark}" for _, mark in channels], "file")
    assert len(set(names)) == len(names) == len(channels)
    assert bool(problems) == any(name.endswith(")") for name in names)


def test_the_step_of_slices_is_the_median_of_all_stacks() -> None:
    assert z_step([{0: 1.0, 1: 3.0, 2: 5.004}, {0: 0.0, 2: 9.0}, {}]) == 2.0
    assert z_step([{0: 1.0}]) is None
    assert z_step([{0: 1.0, 1: 1.0}]) is None
