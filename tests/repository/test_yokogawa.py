"""Yokogawa CV7000 and CV8000 plates: their index, settings and images, and what they may have wrong with them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import parse_well, well_name
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats.yokogawa import ImageName, parse_name

_SCHEMA = 'xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"'


def element(name: str, text: str = "", **values: object) -> str:
    listed = " ".join(f"bts:{key}={quoteattr(str(value))}" for key, value in values.items())
    return f"<bts:{name} {listed}>{text}</bts:{name}>"


@dataclass
class Measurement:
    """A CV8000 measurement to be written; images are 6 x 8 and hold their number in the index."""

    folder: Path
    records: list[dict[str, object]] = field(default_factory=list)
    channels: list[dict[str, object]] = field(
        default_factory=lambda: [
            {"Ch": 1, "Target": "405", "Fluorophore": "DAPI", "Acquisition": "BP445/45", "Color": "#FF002FFF"},
            {"Ch": 2, "Target": "488", "Fluorophore": "GFP", "Acquisition": "BP525/50", "Color": "#FF00FFA1"},
        ]
    )
    pixels: tuple[int, int] = (6, 8)
    setting: str = "assay.mes"

    def add(self, well: str, number: int = 1, channel: int = 1, z: int = 1, t: int = 1, **more: object) -> str:
        """List an image; returns its name."""
        row, column = parse_well(well)
        timeline = more.get("TimelineIndex", 1)
        name = f"assay_{well}_T{t:04d}F{number:03d}L{timeline:02d}A{channel:02d}Z{z:02d}C{channel:02d}.tif"
        values = {
            "Type": "IMG",
            "Column": column + 1,
            "Row": row + 1,
            "TimePoint": t,
            "FieldIndex": number,
            "ZIndex": z,
            "TimelineIndex": timeline,
            "X": 100.5 * number,
            "Y": 20.25,
            "Z": 3.0 * (z - 1),
            "Ch": channel,
        }
        self.records.append({"file": name, **values, **more})
        return str(self.records[-1]["file"])

    def write_index(self) -> None:
        self.folder.mkdir(exist_ok=True)
        lines = [
            element("MeasurementRecord", str(one["file"]), **{key: one[key] for key in one if key != "file"})
            for one in self.records
        ]
        text = f'<?xml version="1.0" encoding="utf-8"?>\n<bts:MeasurementData {_SCHEMA}>' + "\n".join(lines)
        (self.folder / "MeasurementData.mlf").write_text(f"{text}\n</bts:MeasurementData>", encoding="utf-8-sig")

    def write(self, *, images: bool = True) -> Path:
        self.write_index()
        channels = "".join(
            element(
                "MeasurementChannel",
                Ch=one["Ch"],
                HorizontalPixelDimension=one.get("pixel", 0.325),
                HorizontalPixels=self.pixels[1],
                VerticalPixels=self.pixels[0],
            )
            for one in self.channels
        )
        (self.folder / "MeasurementDetail.mrf").write_text(
            f'<bts:MeasurementDetail {_SCHEMA} bts:Title="title" bts:RowCount="8" bts:ColumnCount="12" '
            f'bts:MeasurementSettingFileName="{self.setting}">{channels}</bts:MeasurementDetail>'
        )
        described = "".join(element("Channel", **one) for one in self.channels)
        (self.folder / "assay.mes").write_text(
            f"<bts:MeasurementSetting {_SCHEMA}><bts:ChannelList>{described}</bts:ChannelList></bts:MeasurementSetting>"
        )
        (self.folder / "assay.wpi").write_text(
            f'<bts:WellPlate {_SCHEMA} bts:Name="assay 7" bts:Columns="24" bts:Rows="16"/>'
        )
        for number, one in enumerate(self.records if images else []):
            if one["Type"] == "IMG":
                tifffile.imwrite(self.folder / str(one["file"]), np.full((6, 8), number, np.uint16), metadata=None)
        return self.folder


@pytest.fixture
def measurement(tmp_path: Path) -> Measurement:
    """Return a measurement of two wells, two fields, two channels and three slices, not written yet."""
    made = Measurement(tmp_path / "measurement")
    for well in ("B02", "C11"):
        for number in (1, 2):
            for channel in (1, 2):
                for z in (1, 2, 3):
                    made.add(well, number, channel, z)
    return made


# Names


@given(
    plate=st.text(st.characters(exclude_characters="/\0"), max_size=20),
    row=st.integers(0, 31),
    column=st.integers(0, 47),
    numbers=st.tuples(*(st.integers(0, 999) for _ in range(6))),
    suffix=st.sampled_from([".tif", ".TIF", ".tiff"]),
)
def test_a_name_says_what_was_put_in(plate: str, row: int, column: int, numbers: tuple[int, ...], suffix: str) -> None:
    t, number, timeline, action, z, channel = numbers
    stem = f"{plate}_{well_name(row, column)}_T{t:04d}F{number:03d}L{timeline:02d}A{action:02d}Z{z:02d}C{channel:02d}"
    assert parse_name(stem + suffix) == ImageName(
        plate=plate,
        row=row,
        column=column,
        t=t,
        field=number,
        timeline=timeline,
        action=action,
        z=z,
        channel=channel,
    )


@given(st.text())
def test_no_name_is_too_strange(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize("name", ["DC_DCAM#1_CAM3.tif", "SC_BP445-45_20x v2_M01_CH01.tif", "A01_s1_w1.tif"])
def test_other_files_are_no_images(name: str) -> None:
    assert parse_name(name) is None


# The real acquisition


def test_the_real_plate_is_found_from_above(repository: EmbeddedRepository, real_plates: Path) -> None:
    (index,) = real_plates.glob("cv8000/*/*/MeasurementData.mlf")
    folders = [real_plates / "cv8000", index.parent.parent, index.parent]
    summaries = [repository.import_plate(folder) for folder in folders]
    assert all(summary == summaries[0] for summary in summaries)
    summary = summaries[0]
    assert (summary.name, summary.format) == ("CV8000-Minimal-DataSet-2C-3W-4S-FP2-stack", "Yokogawa")
    assert (summary.source, summary.problems) == (str(index.parent), ())
    assert (summary.wells, summary.fields, summary.planes) == (3, 12, 96)


def test_the_real_plate_has_its_metadata(repository: EmbeddedRepository, real_plates: Path) -> None:
    plate = repository.plate(repository.import_plate(real_plates / "cv8000").id)
    assert [channel.excitation_nm for channel in plate.channels] == [405, 488]
    first = next(iter(plate.fields()))[1]
    assert (first.acquired or "").startswith("2023-09-18T13:5")
    assert (plate.rows, plate.columns) == (8, 12)
    assert [well.name for well in plate.wells] == ["D08", "E03", "F08"]
    assert [(channel.name, channel.emission_nm, channel.color) for channel in plate.channels] == [
        ("405", 445.0, "002FFF"),
        ("488", 525.0, "00FFA1"),
    ]
    for _, one in plate.fields():
        (image,) = one.images
        layout = image.layout
        assert (layout.size_t, layout.size_c, layout.size_z, layout.missing) == (1, 2, 4, ())
        assert (layout.size_y, layout.size_x, layout.dtype) == (2000, 2000, "uint16")
        assert (layout.pixel_size_um, layout.z_step_um) == (0.325, 3.0)
    assert [one.position_um for one in plate.wells[0].fields] == [
        (-402.9, -567.1),
        (-402.9, 82.8),
        (247.0, -567.1),
        (247.0, 82.8),
    ]
    with repository.open(plate.wells[2].fields[3].images[0]) as pixels:
        assert not pixels.plane(0, 1, 3).any()


# Places of planes


def test_planes_lie_where_the_index_says(repository: EmbeddedRepository, measurement: Measurement) -> None:
    summary = repository.import_plate(measurement.write())
    assert (summary.name, summary.channels, summary.problems) == ("assay 7", ("DAPI", "GFP"), ())
    plate = repository.plate(summary.id)
    assert (plate.rows, plate.columns) == (16, 24)
    seen = []
    for _, one in plate.fields():
        with repository.open(one.images[0]) as pixels:
            seen += [int(pixels.plane(0, c, z)[0, 0]) for c in (0, 1) for z in (0, 1, 2)]
    assert seen == list(range(24))
    assert plate.wells[0].fields[1].position_um == (-20.25, 201.0)


def test_time_points_count_in_each_group_of_timelines(repository: EmbeddedRepository, measurement: Measurement) -> None:
    measurement.records.clear()
    for well, timeline, times in (("B02", 1, (1, 3)), ("B03", 1, (1, 3)), ("C02", 2, (2, 4))):
        for t in times:
            measurement.add(well, t=t, TimelineIndex=timeline)
    summary = repository.import_plate(measurement.write())
    assert summary.problems == ()
    plate = repository.plate(summary.id)
    values = []
    for _, one in plate.fields():
        assert (one.images[0].layout.size_t, one.images[0].layout.missing) == (2, ())
        with repository.open(one.images[0]) as pixels:
            values += [int(pixels.plane(t, 0, 0)[0, 0]) for t in (0, 1)]
    assert values == list(range(6))


def test_processed_slices_are_a_projection_beside_the_stack(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    measurement.add("B02", file="assay_B02_projection.tif", ZImageProcessing="Maximum")
    plate = repository.plate(repository.import_plate(measurement.write()).id)
    image = plate.wells[0].fields[0].image("projection")
    assert image is not None
    assert image.layout.size_z == 1
    with repository.open(image) as pixels:
        assert pixels.plane(0, 0, 0)[0, 0] == 24


def test_projections_alone_are_the_stack(repository: EmbeddedRepository, measurement: Measurement) -> None:
    measurement.records.clear()
    measurement.add("B02", ZImageProcessing="Maximum")
    plate = repository.plate(repository.import_plate(measurement.write()).id)
    assert [image.kind for image in plate.wells[0].fields[0].images] == ["stack"]


# Channels


@pytest.mark.parametrize(
    ("dyes", "targets", "names"),
    [
        (("DAPI", "GFP"), ("405", "488"), ("DAPI", "GFP")),
        (("", ""), ("405", "488"), ("405", "488")),
        (("DAPI", ""), ("405", "488"), ("405", "488")),
        (("DAPI", "DAPI"), ("405", "488"), ("405", "488")),
        (("", ""), ("405", "405"), ("BP445/45", "BP525/50")),
    ],
)
def test_channels_have_the_clearest_of_their_names(
    repository: EmbeddedRepository,
    measurement: Measurement,
    dyes: tuple[str, str],
    targets: tuple[str, str],
    names: tuple[str, str],
) -> None:
    for one, dye, target in zip(measurement.channels, dyes, targets, strict=True):
        one |= {"Fluorophore": dye, "Target": target}
    summary = repository.import_plate(measurement.write())
    assert (summary.channels, summary.problems) == (names, ())


def test_channels_of_one_name_are_told_apart(repository: EmbeddedRepository, measurement: Measurement) -> None:
    for one in measurement.channels:
        one |= {"Fluorophore": "DAPI", "Target": "405", "Acquisition": "BP445/45"}
    summary = repository.import_plate(measurement.write())
    assert summary.channels == ("DAPI (C01)", "DAPI (C02)")
    assert summary.problems == ("assay.mes names 2 channels 'DAPI'; they are told apart as DAPI (C01), DAPI (C02)",)


def test_without_settings_channels_have_numbers_and_that_is_told(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    folder = measurement.write()
    (folder / "assay.mes").unlink()
    (folder / "MeasurementDetail.mrf").unlink()
    summary = repository.import_plate(folder)
    assert summary.channels == ("C01", "C02")
    assert summary.problems == (
        "MeasurementDetail.mrf is not there: the size of a pixel is not known",
        "Of 0 .mes files none is the plate's for sure: channels are named by their numbers",
    )


def test_settings_of_another_name_are_used_and_that_is_told(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    measurement.setting = "other.mes"
    summary = repository.import_plate(measurement.write())
    assert summary.channels == ("DAPI", "GFP")
    assert summary.problems == (
        "MeasurementDetail.mrf names other.mes, which is not there; channels are named by assay.mes",
    )


def test_several_pixel_sizes_are_told(repository: EmbeddedRepository, measurement: Measurement) -> None:
    measurement.channels[1]["pixel"] = 0.65
    summary = repository.import_plate(measurement.write())
    assert summary.problems == (
        (
            "MeasurementDetail.mrf has several pixel sizes, the first was taken: "
            "0.325 um in channel 1, 0.65 um in channel 2"
        ),
    )


# What is amiss


def test_correction_images_need_no_word_and_other_images_do(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    folder = measurement.write()
    for name in ("DC_DCAM#1_CAM3.tif", "SC_BP445-45_20x v2_M01_CH01.tif"):
        tifffile.imwrite(folder / name, np.zeros((6, 8), np.uint16))
    assert repository.import_plate(folder).problems == ()
    shutil.copy(folder / str(measurement.records[0]["file"]), folder / "assay_D05_T0001F001L01A01Z01C01.tif")
    assert repository.import_plate(folder).problems == (
        "1 TIFF file(s) are not in MeasurementData.mlf and were left out: assay_D05_T0001F001L01A01Z01C01.tif",
    )


def test_a_listed_image_that_is_gone_is_a_hole_and_named(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    folder = measurement.write()
    gone = folder / str(measurement.records[1]["file"])
    gone.unlink()
    summary = repository.import_plate(folder)
    assert summary.problems == (f"{gone} is not there, MeasurementData.mlf lists it (B02 field 1, channel DAPI, z=1)",)
    assert repository.plate(summary.id).wells[0].fields[0].images[0].layout.missing == ((0, 0, 1),)


def test_a_well_that_was_not_copied_is_one_line(repository: EmbeddedRepository, measurement: Measurement) -> None:
    folder = measurement.write()
    for path in folder.glob("assay_C11_*"):
        path.unlink()
    summary = repository.import_plate(folder)
    assert (summary.wells, summary.planes) == (1, 12)
    assert summary.problems == ("C11 was left out: none of the 12 images that MeasurementData.mlf lists are there",)


def test_an_index_without_any_image_is_an_error(repository: EmbeddedRepository, measurement: Measurement) -> None:
    folder = measurement.write(images=False)
    with pytest.raises(RepositoryError, match=r"None of the 24 images that MeasurementData.mlf lists are in"):
        repository.import_plate(folder)


def test_a_measurement_without_its_index_is_an_error_that_names_it(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    folder = measurement.write()
    (folder / "MeasurementData.mlf").unlink()
    with pytest.raises(RepositoryError, match=r"a Yokogawa measurement without MeasurementData\.mlf"):
        repository.import_plate(folder)


def test_files_that_the_index_puts_elsewhere_are_told(repository: EmbeddedRepository, measurement: Measurement) -> None:
    first, second = measurement.records[0], measurement.records[3]
    first["file"], second["file"] = second["file"], first["file"]
    summary = repository.import_plate(measurement.write())
    (problem,) = summary.problems
    assert problem == (
        "2 file(s) are named for another plane than MeasurementData.mlf says, which was followed: "
        f"it has {second['file']} for B02 field 1, channel 2, z 1"
    )


def test_two_files_for_one_plane_are_told(repository: EmbeddedRepository, measurement: Measurement) -> None:
    measurement.add("B02", file="again.tif")
    assert repository.import_plate(measurement.write()).problems == (
        "1 file(s) were left out, MeasurementData.mlf lists others for the same planes: again.tif",
    )


def test_a_size_that_is_not_that_of_the_images_is_told(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    measurement.pixels = (12, 16)
    assert repository.import_plate(measurement.write()).problems == tuple(
        f"12 image(s) of channel {channel} are not of 12 x 16 pixels as the metadata say: "
        f"assay_B02_T0001F001L01A0{channel}Z01C0{channel}.tif has 6 x 8"
        for channel in (1, 2)
    )


def test_errors_of_the_microscope_and_broken_records_are_told(
    repository: EmbeddedRepository, measurement: Measurement
) -> None:
    measurement.records.append({"file": "", "Type": "ERR", "Row": 2, "Column": 3})
    measurement.add("B02", FieldIndex="first")
    measurement.add("B02", Row=99)
    measurement.add("B02", z=9)
    del measurement.records[-1]["ZIndex"]
    folder = measurement.write()
    for path in folder.glob("*Z09*"):
        path.unlink()
    assert repository.import_plate(folder).problems == (
        "MeasurementData.mlf tells of 1 error(s) of the microscope, at row 2 column 3",
        "3 record(s) in MeasurementData.mlf are not whole and were left out",
    )


def test_an_index_that_was_cut_off_is_an_error(repository: EmbeddedRepository, measurement: Measurement) -> None:
    index = measurement.write() / "MeasurementData.mlf"
    index.write_bytes(index.read_bytes()[:-40])
    with pytest.raises(RepositoryError, match=r"MeasurementData\.mlf is damaged"):
        repository.import_plate(index.parent)


def test_a_listed_path_never_leads_out_of_the_folder(
    repository: EmbeddedRepository, measurement: Measurement, tmp_path: Path
) -> None:
    folder = measurement.write()
    tifffile.imwrite(tmp_path / "outside.tif", np.zeros((6, 8), np.uint16))
    measurement.records[0]["file"] = "../outside.tif"
    measurement.write_index()
    problems = repository.import_plate(folder).problems
    assert any(problem.startswith(f"{folder}/outside.tif is not there") for problem in problems)


def test_two_measurements_are_an_error_that_lists_them(
    repository: EmbeddedRepository, measurement: Measurement, tmp_path: Path
) -> None:
    folder = measurement.write()
    shutil.copytree(folder, tmp_path / "screen" / "one")
    shutil.copytree(folder, tmp_path / "screen" / "two")
    with pytest.raises(RepositoryError, match=r"holds 2 plates:(?s:.)*/one(?s:.)*/two"):
        repository.import_plate(tmp_path / "screen")
