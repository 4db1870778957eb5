"""Plates in OME-TIFF files: metadata by ome-types, files by tifffile's own writer."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ome_types import OME, model, to_xml

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import well_name
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats.ome_xml import read_ome

SHAPE = (2, 2, 3, 24, 32)  # T, C, Z, Y, X
WELLS = ((0, 0), (1, 4))
Change = Callable[[model.Image], None]


def pixels(row: int, column: int, field: int) -> NDArray[np.uint16]:
    return np.random.default_rng([row, column, field]).integers(0, 4000, SHAPE, dtype=np.uint16)


def file_of(row: int, column: int, field: int) -> str:
    return f"{well_name(row, column)}_{field}.ome.tif"


def image_of(row: int, column: int, field: int, tiff_data: list[model.TiffData]) -> model.Image:
    size_t, size_c, size_z, size_y, size_x = SHAPE
    return model.Image(
        id=f"Image:{row}{column}{field}",
        acquisition_date=datetime(2026, 3, 1, 12, field, tzinfo=UTC),
        pixels=model.Pixels(
            id=f"Pixels:{row}{column}{field}",
            dimension_order="XYCZT",
            type="uint16",
            size_t=size_t,
            size_c=size_c,
            size_z=size_z,
            size_y=size_y,
            size_x=size_x,
            physical_size_x=325,
            physical_size_x_unit="nm",
            physical_size_y=325,
            physical_size_y_unit="nm",
            physical_size_z=2,
            channels=[
                model.Channel(
                    id=f"Channel:{row}{column}{field}:0", name="DAPI", emission_wavelength=450, color="#0000FF"
                ),
                model.Channel(
                    id=f"Channel:{row}{column}{field}:1",
                    name="GFP",
                    emission_wavelength=520,
                    excitation_wavelength=488,
                ),
            ],
            planes=[
                model.Plane(the_t=t, the_c=c, the_z=z, delta_t=t * 2.5, delta_t_unit="min")
                for t in range(size_t)
                for c in range(size_c)
                for z in range(size_z)
            ],
            tiff_data_blocks=tiff_data,
        ),
    )


def block(file: str | None, first: int = 0) -> model.TiffData:
    uuid = None
    if file is not None:
        uuid = model.TiffData.UUID(value="urn:uuid:00000000-0000-4000-8000-000000000000", file_name=file)
    return model.TiffData(ifd=first, plane_count=12, uuid=uuid)


def plate_of(wells: tuple[tuple[int, int], ...] = WELLS, fields: int = 2) -> model.Plate:
    return model.Plate(
        id="Plate:7",
        name="Screen 7",
        rows=8,
        columns=12,
        wells=[
            model.Well(
                id=f"Well:{row}{column}",
                row=row,
                column=column,
                well_samples=[
                    model.WellSample(
                        id=f"WellSample:{row}{column}{field}",
                        index=number * fields + field,
                        position_x=1000.0 * column + field,
                        position_x_unit="µm",
                        position_y=-0.5,
                        position_y_unit="mm",
                        image_ref=model.ImageRef(id=f"Image:{row}{column}{field}"),
                    )
                    for field in range(fields)
                ],
            )
            for number, (row, column) in enumerate(wells)
        ],
    )


def places(fields: int = 2) -> list[tuple[int, int, int]]:
    return [(row, column, field) for row, column in WELLS for field in range(fields)]


def write(path: Path, arrays: list[NDArray[Any]], description: str, **options: Any) -> None:
    """Write stacks with tifffile, channels running fastest as the metadata say."""
    with tifffile.TiffWriter(path) as writer:
        for number, array in enumerate(arrays):
            writer.write(
                array.transpose(0, 2, 1, 3, 4).reshape(-1, *array.shape[-2:]),
                description=description.encode() if number == 0 else None,
                metadata=None,
                photometric="minisblack",
                **options,
            )


def companion(folder: Path, change: Change | None = None, **options: Any) -> Path:
    """Write a plate with a companion file."""
    folder.mkdir(parents=True)
    images = [image_of(*place, [block(file_of(*place))]) for place in places()]
    for image in images[-1:]:
        if change is not None:
            change(image)
    (folder / "screen.companion.ome").write_text(to_xml(OME(images=images, plates=[plate_of()])))
    binary = to_xml(OME(binary_only={"metadata_file": "screen.companion.ome", "uuid": f"urn:uuid:{'0' * 8}-0000-4000-8000-{'0' * 12}"}))  # fmt: skip  # noqa: E501
    for place in places():
        write(folder / file_of(*place), [pixels(*place)], binary, **options)
    return folder


def all_in_one(folder: Path) -> Path:
    """Write a plate in one file."""
    folder.mkdir(parents=True)
    images = [image_of(*place, [block(None, 12 * number)]) for number, place in enumerate(places())]
    write(
        folder / "plate.ome.tif",
        [pixels(*place) for place in places()],
        to_xml(OME(images=images, plates=[plate_of()])),
    )
    return folder


def all_in_each(folder: Path) -> Path:
    """Write a plate whose files all describe all of it."""
    folder.mkdir(parents=True)
    images = [image_of(*place, [block(file_of(*place))]) for place in places()]
    text = to_xml(OME(images=images, plates=[plate_of()]))
    for place in places():
        write(folder / file_of(*place), [pixels(*place)], text)
    return folder


def each_its_own(folder: Path) -> Path:
    """Write a plate whose files describe their own well each."""
    folder.mkdir(parents=True)
    for row, column in WELLS:
        images = [image_of(row, column, field, [block(None, 12 * field)]) for field in range(2)]
        text = to_xml(OME(images=images, plates=[plate_of(((row, column),))]))
        write(folder / f"{well_name(row, column)}.ome.tiff", [pixels(row, column, field) for field in range(2)], text)
    return folder


@pytest.mark.parametrize("writer", [companion, all_in_one, all_in_each, each_its_own])
def test_a_plate_is_read_whole_wherever_its_metadata_are(
    repository: EmbeddedRepository, tmp_path: Path, writer: Callable[[Path], Path]
) -> None:
    writer(tmp_path / "screens" / "seven")
    summary = repository.import_plate(tmp_path / "screens")
    assert (summary.format, summary.name, summary.problems) == ("OME-TIFF", "Screen 7", ())
    plate = repository.plate(summary.id)
    assert (plate.rows, plate.columns) == (8, 12)
    assert [well.name for well in plate.wells] == ["A01", "B05"]
    dapi, gfp = plate.channels
    assert (dapi.name, dapi.emission_nm, dapi.color) == ("DAPI", 450, "0000FF")
    assert (gfp.name, gfp.emission_nm, gfp.excitation_nm, gfp.color) == ("GFP", 520, 488, None)
    for (well, field), place in zip(plate.fields(), places(), strict=True):
        layout = field.images[0].layout
        assert (layout.pixel_size_um, layout.z_step_um, layout.t_step_s) == (0.325, 2.0, 150.0)
        assert field.position_um == (-500.0, 1000.0 * well.column + field.number - 1)
        assert field.acquired == f"2026-03-01T12:0{field.number - 1}:00+00:00"
        with repository.open(field.images[0]) as opened:
            for index in np.ndindex(SHAPE[:3]):
                plane = opened.plane(*index)
                np.testing.assert_array_equal(plane, pixels(*place)[index])
                assert not plane.flags.owndata, "an uncompressed plane is mapped"


def test_compressed_pages_are_decoded(repository: EmbeddedRepository, tmp_path: Path) -> None:
    summary = repository.import_plate(companion(tmp_path / "p", compression="zlib", predictor=True))
    field = repository.plate(summary.id).wells[1].fields[1]
    with repository.open(field.images[0]) as opened:
        np.testing.assert_array_equal(opened.plane(1, 0, 2), pixels(1, 4, 1)[1, 0, 2])


# Bad input


def test_files_that_are_not_there_or_not_of_the_plate_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = companion(tmp_path / "p")
    (folder / "B05_1.ome.tif").rename(folder / "other.ome.tif")
    problems = repository.import_plate(folder).problems
    assert problems[0] == "1 OME-TIFF file(s) are not of the plate and were left out: other.ome.tif"
    assert f"{folder}/B05_1.ome.tif is not there, the metadata name it (B05 field 2, channel DAPI, z=0)" in problems


def test_a_companion_that_is_not_there_is_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = companion(tmp_path / "p")
    (folder / "screen.companion.ome").unlink()
    with pytest.raises(RepositoryError, match=r"leave their metadata to screen\.companion\.ome|describes a plate"):
        repository.import_plate(folder)


def test_metadata_of_another_shape_than_the_files_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    def larger(image: model.Image) -> None:
        image.pixels.size_x = 64

    summary = repository.import_plate(companion(tmp_path / "p", larger))
    (problem,) = summary.problems
    assert problem.startswith("1 image(s) are not as their metadata say, the files were followed: B05_1.ome.tif has")
    assert problem.endswith("24 x 32 uint16 and not 24 x 64 uint16 (B05 field 2)")
    assert summary.planes == 4 * 12


def test_a_file_with_fewer_pages_than_the_metadata_say(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = companion(tmp_path / "p")
    write(folder / "B05_1.ome.tif", [pixels(1, 4, 1)[:1]], "")
    problems = repository.import_plate(folder).problems
    assert f"{folder}/B05_1.ome.tif has 6 pages, the metadata name page 7 (B05 field 2, channel DAPI, t=1, z=0)" in (
        problems
    )


def test_a_truncated_file_is_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = companion(tmp_path / "p")
    os.truncate(folder / "B05_1.ome.tif", 2000)
    summary = repository.import_plate(folder)
    assert summary.planes < 4 * 12
    assert any("B05_1.ome.tif" in problem for problem in summary.problems)


def test_colour_channels_and_channels_that_are_named_twice(repository: EmbeddedRepository, tmp_path: Path) -> None:
    def colour(image: model.Image) -> None:
        image.pixels.channels[0].samples_per_pixel = 3

    summary = repository.import_plate(companion(tmp_path / "colour", colour))
    assert summary.problems[0].startswith("Image:141 in screen.companion.ome is a colour image, of 3 samples a pixel")

    def twice(image: model.Image) -> None:
        image.pixels.channels[1].name = "DAPI"

    summary = repository.import_plate(companion(tmp_path / "twice", twice))
    assert summary.channels == ("DAPI", "GFP", "DAPI (channel 1)", "DAPI (channel 2)")
    assert "the images have different channels" in " ".join(summary.problems)
    assert (
        "several channels have one name; they are told apart as DAPI (channel 1), DAPI (channel 2)" in summary.problems
    )


def test_images_that_are_not_there_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = companion(tmp_path / "p")
    document = folder / "screen.companion.ome"
    document.write_text(document.read_text().replace('<Image ID="Image:141"', '<Image ID="Image:999"'))
    summary = repository.import_plate(folder)
    assert summary.problems[0] == ("screen.companion.ome names no image 'Image:141', which it has for B05 field 2")


def test_two_plates_in_one_folder_are_an_error(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = companion(tmp_path / "p")
    other = (folder / "screen.companion.ome").read_text().replace("Plate:7", "Plate:8").replace("Screen 7", "Screen 8")
    (folder / "other.companion.ome").write_text(other)
    with pytest.raises(RepositoryError, match=r"holds 2 plates:\s+Screen 7\s+Screen 8"):
        repository.import_plate(folder)


# Documents

_OPEN = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '


@given(
    st.permutations("ZCT"),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.data(),
)
def test_planes_are_counted_through_in_the_order_that_is_told(
    order: list[str], sizes: tuple[int, int, int], data: st.DataObject
) -> None:
    """Each plane in a TiffData of its own says the same as one TiffData of all."""
    size = dict(zip("ZCT", sizes, strict=True))
    start = data.draw(st.integers(0, 5))
    said = f'DimensionOrder="XY{"".join(order)}" SizeX="8" SizeY="8" Type="uint8" ' + " ".join(
        f'Size{axis}="{count}"' for axis, count in size.items()
    )
    every = np.prod(sizes)
    one = f'{_OPEN}{said}><TiffData IFD="{start}" PlaneCount="{every}"/></Pixels></Image></OME>'
    blocks = ""
    for number in range(every):
        rest, at = number, {}
        for axis in order:
            rest, at[axis] = divmod(rest, size[axis])
        firsts = " ".join(f'First{axis}="{value}"' for axis, value in at.items())
        blocks += f'<TiffData IFD="{start + number}" {firsts}/>'
    each = f"{_OPEN}{said}>{blocks}</Pixels></Image></OME>"
    (first,) = read_ome(Path("one"), one.encode()).images.values()
    (second,) = read_ome(Path("each"), each.encode()).images.values()
    assert set(first.planes) == set(second.planes)
    assert len(first.planes) == every
    assert first.planes[0].page == start


_VALUES = st.sampled_from(["", "0", "1", "-1", "3", "1e999", "NaN", "99999999999", "XYZCT", "x", "uint8", "\u00b5m"])
_KEYS = ["SizeX", "SizeY", "SizeZ", "SizeC", "SizeT", "Type", "DimensionOrder", "PhysicalSizeX", "PhysicalSizeXUnit"]


@given(
    st.dictionaries(st.sampled_from(_KEYS), _VALUES),
    st.dictionaries(st.sampled_from(["IFD", "PlaneCount", "FirstZ", "FirstC", "FirstT"]), _VALUES),
    st.dictionaries(st.sampled_from(["TheT", "TheC", "DeltaT", "DeltaTUnit", "PositionX", "PositionY"]), _VALUES),
)
def test_any_values_are_read_or_told(said: dict[str, str], block: dict[str, str], plane: dict[str, str]) -> None:
    def text(values: dict[str, str]) -> str:
        return " ".join(f'{key}="{value}"' for key, value in values.items())

    document = f"{_OPEN}{text(said)}><TiffData {text(block)}/><Plane {text(plane)}/></Pixels></Image></OME>"
    (image,) = read_ome(Path("x"), document.encode()).images.values()
    assert image.planes or image.fault
    assert len(set(image.planes)) == len(image.planes)
