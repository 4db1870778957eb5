"""The stand-in does for unmodified clients what OMERO.server does: BlitzGateway, ezomero, omero2pandas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

import omero
from omero.gateway import BlitzGateway, MapAnnotationWrapper
from omero.rtypes import rstring

from tests.omero_standin.process import StandIn
from tests.omero_standin.sample import PASSWORDS, Sample
from tests.plates import MadePlate

pytestmark = pytest.mark.filterwarnings("ignore")


class Lab:
    """A stand-in with two plates."""

    def __init__(self, folder: Path) -> None:
        sample = Sample(folder)
        self.screen = sample.screen("Screen one")
        self.made_by_client = sample.plate("drawn", screen=self.screen)
        self.imported = sample.plate("acquired", imported=True, screen=self.screen)
        self.private = sample.plate("hidden", owner="mallory", of="private")
        self.server = StandIn(folder)

    def login(self, user: str, password: str | None = None) -> BlitzGateway:
        connection = BlitzGateway(
            user, password or PASSWORDS[user], host="127.0.0.1", port=self.server.port, secure=True
        )
        if not connection.connect():
            raise ConnectionError(str(connection.getLastError()))
        return connection


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("omero"))
    with made.server:
        yield made


@pytest.fixture
def ada(lab: Lab) -> Iterator[BlitzGateway]:
    connection = lab.login("ada")
    yield connection
    connection.close()


def check_plate(connection: BlitzGateway, number: int, made: MadePlate) -> None:
    plate = connection.getObject("Plate", number)
    assert plate.getName() == made.folder.name
    wells = {f"{chr(65 + well.row)}{well.column + 1:02d}": well for well in plate.listChildren()}
    assert set(wells) == set(made.wells)
    for name, well in wells.items():
        samples = list(well.listChildren())
        assert len(samples) == made.fields
        for index, sample in enumerate(samples):
            image = sample.getImage()
            assert image.getChannelLabels() == list(made.channels)
            assert (image.getSizeZ(), image.getSizeC(), image.getSizeT()) == (made.z, len(made.channels), 1)
            np.testing.assert_array_equal(image.getPrimaryPixels().getPlane(1, 1, 0), made.plane(name, index + 1, 1, 1))


class TestGateway:
    def test_a_wrong_password_is_refused(self, lab: Lab) -> None:
        with pytest.raises(ConnectionError, match="PermissionDenied"):
            lab.login("ada", "wrong")

    @pytest.mark.parametrize("which", ["made_by_client", "imported"])
    def test_a_plate_has_its_wells_fields_channels_and_pixels(self, lab: Lab, ada: BlitzGateway, which: str) -> None:
        check_plate(ada, *getattr(lab, which))

    def test_people_see_what_their_groups_let_them(self, lab: Lab, ada: BlitzGateway) -> None:
        assert {plate.getName() for plate in ada.getObjects("Plate")} == {"drawn", "acquired"}
        ada.SERVICE_OPTS.setOmeroGroup("-1")
        assert ada.getObject("Plate", lab.private[0]) is None

    def test_people_change_only_what_they_may(self, lab: Lab) -> None:
        grace = lab.login("grace")
        plate = grace.getObject("Plate", lab.imported[0])
        assert not plate.canEdit()
        assert plate.canAnnotate()
        plate._obj.name = rstring("mine")
        with pytest.raises(omero.SecurityViolation):
            grace.getUpdateService().saveAndReturnObject(plate._obj)
        grace.close()

    def test_originals_of_plates_are_not_handed_out(self, lab: Lab, ada: BlitzGateway) -> None:
        image = next(iter(next(iter(ada.getObject("Plate", lab.imported[0]).listChildren())).listChildren())).getImage()
        assert image.getDetails().permissions.isRestricted("RESTRICT-BINARY-ACCESS")
        store = ada.c.sf.createRawFileStore()
        file = next(iter(image.getImportedImageFiles()))
        with pytest.raises(omero.SecurityViolation):
            store.setFileId(file.getId())

    def test_an_image_with_its_annotations_comes_and_goes(self, ada: BlitzGateway, tmp_path: Path) -> None:
        planes = [np.full((20, 30), value, np.uint16) for value in (1, 2, 3, 4)]
        image = ada.createImageFromNumpySeq(iter(planes), "made here", sizeZ=2, sizeC=2, sizeT=1)
        np.testing.assert_array_equal(image.getPrimaryPixels().getPlane(1, 1, 0), planes[3])
        pairs = MapAnnotationWrapper(ada)
        pairs.setNs("of.the.test")
        pairs.setValue([["sigma", "2"], ["wells", "all"]])
        pairs.save()
        image.linkAnnotation(pairs)
        (tmp_path / "cell.py").write_text("pipeline_steps = []\n")
        file = ada.createFileAnnfromLocalFile(str(tmp_path / "cell.py"), ns="of.the.test")
        image.linkAnnotation(file)
        found = list(ada.getObject("Image", image.getId()).listAnnotations(ns="of.the.test"))
        assert {type(one).__name__ for one in found} == {"MapAnnotationWrapper", "FileAnnotationWrapper"}
        assert b"".join(file.getFileInChunks()) == b"pipeline_steps = []\n"
        ada.deleteObjects("Image", [image.getId()], deleteAnns=True, wait=True)
        assert ada.getObject("Image", image.getId()) is None
        assert ada.getObject("MapAnnotation", pairs.getId()) is None


class TestOtherClients:
    def test_ezomero(self, lab: Lab, ada: BlitzGateway) -> None:
        import ezomero

        number, made = lab.made_by_client
        wells = ezomero.get_well_ids(ada, plate=number)
        images = ezomero.get_image_ids(ada, plate=number)
        assert (len(wells), len(images)) == (2, 4)
        _image, pixels = ezomero.get_image(ada, images[0])
        np.testing.assert_array_equal(pixels[0, 2, :, :, 1], made.plane("A01", 1, 1, 2))
        annotation = ezomero.post_map_annotation(ada, "Image", images[0], {"key": "value"}, ns="of.the.test")
        assert ezomero.get_map_annotation(ada, annotation) == {"key": "value"}
        rectangle = ezomero.rois.Rectangle(1, 2, 3, 4, z=0, c=0, t=0, label="box")
        roi = ezomero.post_roi(ada, images[0], [rectangle], name="one")
        assert roi in ezomero.get_roi_ids(ada, images[0])

    def test_omero2pandas(self, lab: Lab, ada: BlitzGateway) -> None:
        import omero2pandas

        frame = pd.DataFrame({"Area": [1.5, 2.5], "Label": ["a", "b"], "N": [1, 2]})
        number = omero2pandas.upload_table(frame, "objects", lab.imported[0], "Plate", omero_connector=ada.c)
        back = omero2pandas.read_table(annotation_id=number, omero_connector=ada.c)
        pd.testing.assert_frame_equal(back[list(frame)].reset_index(drop=True), frame)


def test_what_was_saved_is_there_after_a_power_cut(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with lab.server:
        connection = lab.login("ada")
        identifier = connection.c.getSessionId()
        pairs = MapAnnotationWrapper(connection)
        pairs.setValue([["kept", "yes"]])
        pairs.save()
        lab.server.kill()
        lab.server.start()
        joined = BlitzGateway(host="127.0.0.1", port=lab.server.port)
        assert joined.connect(sUuid=identifier)
        assert joined.getObject("MapAnnotation", pairs.getId()).getValue() == [("kept", "yes")]
        joined.close(hard=False)


def test_an_unused_session_ends(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with lab.server:
        connection: Any = lab.login("ada")
        lab.server.ask(close_sessions=True)
        with pytest.raises(omero.RemovedSessionException):
            connection.c.sf.getQueryService().findAllByQuery("select p from Plate p", None)
        connection.c.__del__()
