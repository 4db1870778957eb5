"""Plates of an OMERO server, listed, loaded and read."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository import connect
from openhcs_jupyter.repository.omero import OmeroRepository
from tests.omero.lab import Lab

pytestmark = pytest.mark.filterwarnings("ignore")


class TestConnecting:
    def test_a_wrong_password_says_so_and_not_what_it_was(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # no session is there to join
        with pytest.raises(RepositoryError, match="does not let ada in") as told:
            lab.join("ada", "typed wrong"[::-1])
        shown = "".join(traceback.TracebackException.from_exception(told.value, capture_locals=False).format())
        assert "typed wrong"[::-1] not in shown

    def test_a_host_that_does_not_answer(self) -> None:
        with pytest.raises(RepositoryError, match=r"No OMERO server answers at 127.0.0.1:1"):
            OmeroRepository("omero://ada@127.0.0.1:1", lambda _: "secret").reach()

    def test_another_process_of_the_user_joins_the_session(self, lab: Lab, ada: OmeroRepository) -> None:
        with connect(ada.uri) as again:
            assert isinstance(again, OmeroRepository)
            assert again.connection.key == ada.connection.key

    def test_nobody_else_reads_the_key(self, ada: OmeroRepository, places: Path) -> None:
        kept = [path for path in (places / "state").rglob("*") if path.is_file()]
        assert kept
        assert all(path.stat().st_mode & 0o077 == 0 for path in [*kept, *(path.parent for path in kept)])

    def test_without_a_session_it_says_how_to_connect(self, lab: Lab) -> None:
        with pytest.raises(RepositoryError, match="no session"):
            _ = OmeroRepository(lab.uri("grace")).connection


class TestPlates:
    def test_the_plates_of_all_groups_of_the_user(self, lab: Lab, ada: OmeroRepository) -> None:
        found = {plate.name: plate for plate in ada.plates()}
        assert set(found) == {"drawn", "acquired"}
        assert (found["drawn"].wells, found["drawn"].fields, found["drawn"].source) == (2, 4, "screen Screen one")

    @pytest.mark.parametrize("which", ["made_by_client", "imported"])
    def test_wells_fields_channels_scale_and_pixels(self, lab: Lab, ada: OmeroRepository, which: str) -> None:
        number, made = getattr(lab, which)
        plate = ada.plate(number)
        assert [well.name for well in plate.wells] == list(made.wells)
        assert [channel.name for channel in plate.channels] == list(made.channels)
        assert [channel.emission_nm for channel in plate.channels] == [450, 525]
        for well, field in plate.fields():
            layout = field.images[0].layout
            assert (layout.pixel_size_um, layout.z_step_um) == (0.65, 2.0)
            with ada.open(field.images[0]) as source:
                for c in range(2):
                    for z in range(3):
                        np.testing.assert_array_equal(source.plane(0, c, z), made.plane(well.name, field.number, c, z))

    def test_a_plate_takes_few_queries(self, lab: Lab, ada: OmeroRepository) -> None:
        lab.server.ask(calls=True)
        ada.plate(lab.imported[0])
        assert len(lab.server.ask(calls=True)["queries"]) <= 6

    @pytest.mark.parametrize("name", ["drawn", "plate:{0}", "https://omero.lab.edu/webclient/?show=plate-{0}"])
    def test_names_and_links(self, lab: Lab, ada: OmeroRepository, name: str) -> None:
        number = lab.made_by_client[0]
        assert ada.plate(name.format(number)).id == number

    def test_a_plate_that_the_user_may_not_see(self, lab: Lab, ada: OmeroRepository) -> None:
        with pytest.raises(RepositoryError, match="that you may see"):
            ada.plate(lab.private[0])

    def test_an_unknown_name_says_how_to_list(self, ada: OmeroRepository) -> None:
        with pytest.raises(RepositoryError, match="There is no plate or dataset 'nowhere'"):
            ada.plate("nowhere")


class TestInPlace:
    def test_own_files_are_mapped_and_the_server_is_not_asked(self, lab: Lab, direct: OmeroRepository) -> None:
        number, made = lab.made_by_client
        plate = direct.plate(number)
        lab.server.ask(calls=True)
        well, field = next(iter(plate.fields()))
        with direct.open(field.images[0]) as source:
            np.testing.assert_array_equal(source.plane(0, 1, 2), made.plane(well.name, field.number, 1, 2))
        assert not [call for call in lab.server.ask(calls=True)["calls"] if call.startswith("RawPixels")]

    def test_a_short_file_is_refused(self, lab: Lab, direct: OmeroRepository) -> None:
        plate = direct.plate(lab.made_by_client[0])
        image = plate.wells[1].fields[1].images[0]
        path = Path(direct._places.of_image(image).file)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        try:
            with pytest.raises(RepositoryError, match="B02 field 2"):
                direct.open(image)
        finally:
            path.write_bytes(whole)

    def test_imported_files_are_read_where_they_lie(self, lab: Lab, direct: OmeroRepository) -> None:
        number, made = lab.imported
        plate = direct.plate(number)
        lab.server.ask(calls=True)
        for well, field in plate.fields():
            with direct.open(field.images[0]) as source:
                np.testing.assert_array_equal(source.plane(0, 1, 2), made.plane(well.name, field.number, 1, 2))
        assert not [call for call in lab.server.ask(calls=True)["calls"] if call.startswith("RawPixels")]

    def test_files_that_are_not_what_the_server_gives_are_not_trusted(self, lab: Lab, direct: OmeroRepository) -> None:
        number, _ = lab.imported
        side = next((lab.server.binary_repository / "Planes").glob("*.json"))
        planes = side.read_text()
        side.write_text(planes.replace("_A01_s1_w1.tif", "_B02_s2_w1.tif"))
        try:
            plate = direct.plate(number)
        finally:
            side.write_text(planes)
        place = direct._places.of_image(plate.wells[0].fields[0].images[0])
        assert place.registered is None
        assert "not what the server gives" in place.why

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("_A01_s2_w1", "_B02_s1_w1"),
            ("_B02_s2_w1", "_B02_s1_w1"),
            ('ZStep_2/[^"]*_A01_s1_w2', 'ZStep_3/[^"]*_A01_s1_w2'),
        ],
    )
    def test_planes_in_another_order_than_the_servers_are_not_trusted(
        self, lab: Lab, direct: OmeroRepository, one: str, other: str
    ) -> None:
        """Also where the first plane of the first field is the same."""
        number, _ = lab.imported
        side = next((lab.server.binary_repository / "Planes").glob("*.json"))
        planes = side.read_text()
        names = [next(iter(re.findall(rf'[^"]*{name}[.]tif', planes))) for name in (one, other)]
        swapped = planes.replace(names[0], "<>").replace(names[1], names[0]).replace("<>", names[1])
        assert swapped != planes
        side.write_text(swapped)
        try:
            plate = direct.plate(number)
        finally:
            side.write_text(planes)
        place = direct._places.of_image(plate.wells[0].fields[0].images[0])
        assert place.registered is None
        assert "not what the server gives" in place.why

    def test_files_that_are_gone_come_through_the_server(self, lab: Lab, direct: OmeroRepository) -> None:
        number, made = lab.imported
        away = made.folder.rename(made.folder.with_name("away"))
        try:
            place = direct._places.of_image(direct.plate(number).wells[0].fields[0].images[0])
        finally:
            away.rename(made.folder)
        assert place.registered is None
        assert place.why


def test_a_session_goes_on_when_the_server_was_away(lab: Lab, ada: OmeroRepository) -> None:
    key = ada.connection.key
    lab.server.kill()
    for _ in range(2):
        with pytest.raises(RepositoryError, match="No OMERO server answers"):
            ada.plates()
    lab.server.start()
    assert {plate.name for plate in ada.plates()} == {"drawn", "acquired"}
    assert ada.connection.key == key
