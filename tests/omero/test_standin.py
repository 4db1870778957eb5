"""The stand-in does for unmodified clients what OMERO.server does: BlitzGateway, ezomero, omero2pandas."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

import omero
from omero.gateway import BlitzGateway, MapAnnotationWrapper
from omero.rtypes import rstring

from tests.omero.lab import Lab
from tests.plates import MadePlate

pytestmark = pytest.mark.filterwarnings("ignore")


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
    def test_a_plate_has_its_wells_fields_channels_and_pixels(
        self, lab: Lab, gateway: BlitzGateway, which: str
    ) -> None:
        check_plate(gateway, *getattr(lab, which))

    def test_people_see_what_their_groups_let_them(self, lab: Lab, gateway: BlitzGateway) -> None:
        assert {plate.getName() for plate in gateway.getObjects("Plate")} == {"drawn", "acquired"}
        gateway.SERVICE_OPTS.setOmeroGroup("-1")
        assert gateway.getObject("Plate", lab.private[0]) is None

    def test_people_change_only_what_they_may(self, lab: Lab) -> None:
        with closing(lab.login("grace")) as grace:
            plate = grace.getObject("Plate", lab.imported[0])
            assert not plate.canEdit()
            assert plate.canAnnotate()
            plate._obj.name = rstring("mine")
            with pytest.raises(omero.SecurityViolation):
                grace.getUpdateService().saveAndReturnObject(plate._obj)

    def test_originals_of_plates_are_not_handed_out(self, lab: Lab, gateway: BlitzGateway) -> None:
        image = next(
            iter(next(iter(gateway.getObject("Plate", lab.imported[0]).listChildren())).listChildren())
        ).getImage()
        assert image.getDetails().permissions.isRestricted("RESTRICT-BINARY-ACCESS")
        store = gateway.c.sf.createRawFileStore()
        file = next(iter(image.getImportedImageFiles()))
        with pytest.raises(omero.SecurityViolation):
            store.setFileId(file.getId())

    def test_an_image_with_its_annotations_comes_and_goes(self, gateway: BlitzGateway, tmp_path: Path) -> None:
        planes = [np.full((20, 30), value, np.uint16) for value in (1, 2, 3, 4)]
        image = gateway.createImageFromNumpySeq(iter(planes), "made here", sizeZ=2, sizeC=2, sizeT=1)
        np.testing.assert_array_equal(image.getPrimaryPixels().getPlane(1, 1, 0), planes[3])
        pairs = MapAnnotationWrapper(gateway)
        pairs.setNs("of.the.test")
        pairs.setValue([["sigma", "2"], ["wells", "all"]])
        pairs.save()
        image.linkAnnotation(pairs)
        (tmp_path / "cell.py").write_text("pipeline_steps = []\n")
        file = gateway.createFileAnnfromLocalFile(str(tmp_path / "cell.py"), ns="of.the.test")
        image.linkAnnotation(file)
        found = list(gateway.getObject("Image", image.getId()).listAnnotations(ns="of.the.test"))
        assert {type(one).__name__ for one in found} == {"MapAnnotationWrapper", "FileAnnotationWrapper"}
        assert b"".join(file.getFileInChunks()) == b"pipeline_steps = []\n"
        gateway.deleteObjects("Image", [image.getId()], deleteAnns=True, wait=True)
        assert gateway.getObject("Image", image.getId()) is None
        assert gateway.getObject("MapAnnotation", pairs.getId()) is None


class TestOtherClients:
    def test_ezomero(self, lab: Lab, gateway: BlitzGateway) -> None:
        import ezomero

        number, made = lab.made_by_client
        wells = ezomero.get_well_ids(gateway, plate=number)
        images = ezomero.get_image_ids(gateway, plate=number)
        assert (len(wells), len(images)) == (2, 4)
        _image, pixels = ezomero.get_image(gateway, images[0])
        np.testing.assert_array_equal(pixels[0, 2, :, :, 1], made.plane("A01", 1, 1, 2))
        annotation = ezomero.post_map_annotation(gateway, "Image", images[0], {"key": "value"}, ns="of.the.test")
        assert ezomero.get_map_annotation(gateway, annotation) == {"key": "value"}
        rectangle = ezomero.rois.Rectangle(1, 2, 3, 4, z=0, c=0, t=0, label="box")
        roi = ezomero.post_roi(gateway, images[0], [rectangle], name="one")
        assert roi in ezomero.get_roi_ids(gateway, images[0])

    def test_omero2pandas(self, lab: Lab, gateway: BlitzGateway) -> None:
        import omero2pandas

        frame = pd.DataFrame({"Area": [1.5, 2.5], "Label": ["a", "b"], "N": [1, 2]})
        number = omero2pandas.upload_table(frame, "objects", lab.imported[0], "Plate", omero_connector=gateway.c)
        back = omero2pandas.read_table(annotation_id=number, omero_connector=gateway.c)
        pd.testing.assert_frame_equal(back[list(frame)].reset_index(drop=True), frame)


@pytest.mark.skipif("OMERO_HOST" in os.environ, reason="a real server is not killed for a test")
def test_what_was_saved_is_there_after_a_power_cut(lab: Lab) -> None:
    with closing(lab.login("ada")) as connection:
        identifier = connection.c.getSessionId()
        pairs = MapAnnotationWrapper(connection)
        pairs.setValue([["kept", "yes"]])
        pairs.save()
        lab.server.kill()
        lab.server.start()
        with closing(BlitzGateway(host="127.0.0.1", port=lab.server.port)) as joined:
            assert joined.connect(sUuid=identifier)
            assert joined.getObject("MapAnnotation", pairs.getId()).getValue() == [("kept", "yes")]


@pytest.mark.skipif("OMERO_HOST" in os.environ, reason="sessions of a real server last ten minutes")
def test_an_unused_session_ends(lab: Lab) -> None:
    with closing(lab.login("ada")) as connection:
        lab.server.ask(close_sessions=True)
        with pytest.raises(omero.RemovedSessionException):
            connection.c.sf.getQueryService().findAllByQuery("select p from Plate p", None)
