"""Opera Phenix and Operetta plates, as Harmony exports them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats.opera import ImageName, parse_name

_SCHEMA = "http://www.perkinelmer.com/PEHH/Harmony"


def _tags(values: dict[str, object]) -> str:
    lengths = ("PositionX", "PositionY", "PositionZ", "ImageResolutionX", "ImageResolutionY")
    return "".join(
        f'<{key} Unit="m">{value}</{key}>' if key in lengths else f"<{key}>{escape(str(value))}</{key}>"
        for key, value in values.items()
    )


@dataclass
class Export:
    """An export of Harmony to be written; images are 6 x 8 and hold their number in the index."""

    folder: Path
    version: int = 5
    images: list[dict[str, object]] = field(default_factory=list)
    channels: dict[int, dict[str, object]] = field(
        default_factory=lambda: {
            1: {"ChannelName": "HOECHST 33342", "MainEmissionWavelength": 456},
            2: {"ChannelName": "Brightfield", "MainEmissionWavelength": 0},
        }
    )
    resolution: float = 2.9666880748775e-07
    size: tuple[int, int] = (6, 8)

    def add(self, row: int, column: int, number: int = 1, channel: int = 1, plane: int = 1, time: int = 0) -> str:
        """List an image; returns its name."""
        name = f"r{row:02d}c{column:02d}f{number:02d}p{plane:02d}-ch{channel}sk{time + 1}fk1fl1.tiff"
        self.images.append(
            {
                "id": f"{row:02d}{column:02d}K{time + 1}F{number}P{plane}R{channel}",
                "State": "Ok",
                "URL": name,
                "Row": row,
                "Col": column,
                "FieldID": number,
                "PlaneID": plane,
                "TimepointID": time,
                "ChannelID": channel,
                "PositionX": 0.000323 * number,
                "PositionY": -0.0001,
                "PositionZ": -4e-06 + 2e-06 * plane,
            }
        )
        return name

    def description(self, channel: int) -> dict[str, object]:
        return {
            **self.channels[channel],
            "ImageResolutionX": self.resolution,
            "ImageResolutionY": self.resolution,
            "ImageSizeX": self.size[1],
            "ImageSizeY": self.size[0],
        }

    @property
    def index(self) -> Path:
        return self.folder / "Images" / ("Index.idx.xml" if self.version < 6 else "Index.xml")

    def write_index(self) -> None:
        self.index.parent.mkdir(parents=True, exist_ok=True)
        inside = self.version < 6
        listed = "".join(
            f'<Image Version="1">{_tags({**one, **(self.description(int(str(one["ChannelID"]))) if inside else {})})}'
            "</Image>"
            for one in self.images
        )
        maps = "".join(
            f'<Entry ChannelID="{channel}">{_tags(self.description(channel))}</Entry>' for channel in self.channels
        )
        wells = "".join(f'<Image id="{one["id"]}"/>' for one in self.images)
        self.index.write_text(
            f'<?xml version="1.0" encoding="utf-8"?>\n<EvaluationInputData xmlns="{_SCHEMA}V{self.version}">'
            "<Plates><Plate><PlateID>P7</PlateID><Name>plate 7</Name><PlateRows>16</PlateRows>"
            '<PlateColumns>24</PlateColumns><Well id="0102"/></Plate></Plates>'
            f"<Wells><Well><id>0102</id>{wells}</Well></Wells>"
            f"<Maps><Map>{'' if inside else maps}</Map></Maps><Images>{listed}</Images></EvaluationInputData>",
            encoding="utf-8",
        )

    def write(self) -> Path:
        self.write_index()
        for number, one in enumerate(self.images):
            path = self.index.parent / str(one["URL"])
            tifffile.imwrite(path, np.full((6, 8), number, np.uint16), metadata=None)
        return self.folder


@pytest.fixture(params=[5, 6])
def export(tmp_path: Path, request: pytest.FixtureRequest) -> Export:
    """Return two wells, two fields, two channels, two planes and two time points, not written yet."""
    made = Export(tmp_path / "plate 7__2026-03-12-Measurement 1", request.param)
    for row, column in ((1, 2), (16, 24)):
        for number in (1, 2):
            for time in (0, 1):
                for channel in (1, 2):
                    for plane in (1, 2):
                        made.add(row, column, number, channel, plane, time)
    return made


# Names


@given(numbers=st.tuples(*(st.integers(0, 99) for _ in range(6))), suffix=st.sampled_from([".tiff", ".TIF"]))
def test_a_name_says_what_was_put_in(numbers: tuple[int, ...], suffix: str) -> None:
    row, column, number, plane, channel, time = numbers
    stem = f"r{row:02d}c{column:02d}f{number:02d}p{plane:02d}-ch{channel}sk{time}fk1fl1"
    expected = ImageName(row=row, column=column, field=number, plane=plane, channel=channel, time=time)
    assert parse_name(stem + suffix) == expected


@given(st.text())
def test_no_name_is_too_strange(name: str) -> None:
    assert parse_name(name) is None


# Places of planes


def test_planes_lie_where_the_index_says(repository: EmbeddedRepository, export: Export) -> None:
    summary = repository.import_plate(export.write())
    assert (summary.name, summary.format, summary.problems) == ("plate 7", "Opera", ())
    assert summary.source == str(export.index.parent)
    plate = repository.plate(summary.id)
    assert (plate.rows, plate.columns, [well.name for well in plate.wells]) == (16, 24, ["A02", "P24"])
    seen = []
    for _, one in plate.fields():
        (image,) = one.images
        assert (image.layout.size_t, image.layout.size_c, image.layout.size_z, image.layout.missing) == (2, 2, 2, ())
        assert (image.layout.pixel_size_um, image.layout.z_step_um) == (0.296669, 2.0)
        with repository.open(image) as pixels:
            seen += [int(pixels.plane(t, c, z)[0, 0]) for t in (0, 1) for c in (0, 1) for z in (0, 1)]
    assert seen == list(range(32))
    assert [one.position_um for one in plate.wells[1].fields] == [(100.0, 323.0), (100.0, 646.0)]


def test_channels_have_their_names_and_wavelengths(repository: EmbeddedRepository, export: Export) -> None:
    plate = repository.plate(repository.import_plate(export.write()).id)
    assert [(one.name, one.emission_nm) for one in plate.channels] == [("HOECHST 33342", 456.0), ("Brightfield", None)]


def test_the_plate_is_found_from_above_and_below(repository: EmbeddedRepository, export: Export) -> None:
    folder = export.write()
    summaries = [repository.import_plate(one) for one in (folder.parent / folder.name, folder, export.index.parent)]
    assert all(summary == summaries[0] for summary in summaries)


def test_an_index_above_the_images(repository: EmbeddedRepository, export: Export) -> None:
    folder = export.write()
    export.index.rename(folder / export.index.name)
    summary = repository.import_plate(folder)
    assert (summary.planes, summary.source, summary.problems) == (32, str(folder), ())


def test_planes_and_time_points_are_counted_without_gaps(repository: EmbeddedRepository, export: Export) -> None:
    export.images = [one for one in export.images if one["PlaneID"] == 2 and one["TimepointID"] == 1]
    plate = repository.plate(repository.import_plate(export.write()).id)
    layout = plate.wells[0].fields[0].images[0].layout
    assert (layout.size_t, layout.size_z, layout.missing) == (1, 1, ())


# What is amiss


def test_channels_of_one_name_are_told_apart(repository: EmbeddedRepository, export: Export) -> None:
    export.channels[2]["ChannelName"] = "HOECHST 33342"
    summary = repository.import_plate(export.write())
    assert summary.channels == ("HOECHST 33342 (ch1)", "HOECHST 33342 (ch2)")
    assert summary.problems == (
        (
            f"{export.index.name} names 2 channels 'HOECHST 33342'; "
            "they are told apart as HOECHST 33342 (ch1), HOECHST 33342 (ch2)"
        ),
    )


def test_a_listed_image_that_is_gone_is_a_hole_and_named(repository: EmbeddedRepository, export: Export) -> None:
    export.write()
    gone = export.index.parent / "r01c02f01p02-ch1sk1fk1fl1.tiff"
    gone.unlink()
    summary = repository.import_plate(export.folder)
    assert summary.problems == (
        f"{gone} is not there, {export.index.name} lists it (A02 field 1, channel HOECHST 33342, z=1)",
    )
    assert repository.plate(summary.id).wells[0].fields[0].images[0].layout.missing == ((0, 0, 1),)


def test_an_image_that_was_not_recorded_is_told(repository: EmbeddedRepository, export: Export) -> None:
    folder = export.write()
    export.images[0]["URL"] = ""
    export.write_index()
    problems = repository.import_plate(folder).problems
    assert f"{export.index.name} has 1 image(s) that were not recorded, at A02 field 1" in problems
    assert "A02 field 1, channel HOECHST 33342 has no file at z=0" in problems


def test_images_that_are_not_listed_are_told(repository: EmbeddedRepository, export: Export) -> None:
    folder = export.write()
    removed = export.images.pop()
    export.write_index()
    problems = repository.import_plate(folder).problems
    assert f"1 TIFF file(s) are not in {export.index.name} and were left out: {removed['URL']}" in problems


def test_files_that_the_index_puts_elsewhere_are_told(repository: EmbeddedRepository, export: Export) -> None:
    first, second = export.images[0], export.images[2]
    first["URL"], second["URL"] = second["URL"], first["URL"]
    (problem,) = repository.import_plate(export.write()).problems
    assert problem.startswith(f"2 file(s) are named for another plane than {export.index.name} says")


def test_a_size_that_is_not_that_of_the_images_is_told(repository: EmbeddedRepository, export: Export) -> None:
    export.size = (2160, 2160)
    problems = repository.import_plate(export.write()).problems
    assert problems[0].startswith("16 image(s) of channel 1 are not of 2160 x 2160 pixels as the metadata say: ")


def test_entries_without_a_place_are_told(repository: EmbeddedRepository, export: Export) -> None:
    export.images.append({**export.images[0], "Row": "?", "URL": "r01c02f01p01-ch1sk1fk1fl1.tiff"})
    assert repository.import_plate(export.write()).problems == (
        f"1 image(s) in {export.index.name} have no place on the plate and were left out",
    )


def test_an_index_that_was_cut_off_is_an_error(repository: EmbeddedRepository, export: Export) -> None:
    folder = export.write()
    export.index.write_bytes(export.index.read_bytes()[:-200])
    with pytest.raises(RepositoryError, match=f"{export.index.name} is damaged"):
        repository.import_plate(folder)


def test_times_and_wavelengths_of_excitation_are_kept(repository: EmbeddedRepository, export: Export) -> None:
    export.channels[1]["MainExcitationWavelength"] = 385
    for one in export.images:
        minute = 20 * int(str(one["TimepointID"])) + int(str(one["FieldID"]))
        one["AbsTime"] = f"2026-03-12T14:{minute:02d}:07.5170000+01:00"
    plate = repository.plate(repository.import_plate(export.write()).id)
    assert [channel.excitation_nm for channel in plate.channels] == [385, None]
    for _, one_field in plate.fields():
        assert one_field.acquired == f"2026-03-12T14:{one_field.number:02d}:07.517000+01:00"
        assert one_field.images[0].layout.t_step_s == 1200.0
