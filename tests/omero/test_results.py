"""A run on a plate of OMERO, whose results stand in OMERO as other clients see them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from omero.gateway import BlitzGateway

from openhcs_jupyter import Labels, Step, Table
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import run
from openhcs_jupyter.functions import bin_pixels, crop, max_projection, measure_objects
from openhcs_jupyter.model import PixelGrid
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.images import limits_of
from openhcs_jupyter.repository.omero.masks import masks_of
from openhcs_jupyter.repository.omero.outlines import outlines_of
from openhcs_jupyter.repository.omero.pieces import on_recorded
from openhcs_jupyter.repository.omero.results import OmeroWriter
from openhcs_jupyter.topology import discover
from tests.omero.lab import Lab

pytestmark = pytest.mark.filterwarnings("ignore")


def blobs(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stack and two objects whose places are known."""
    labels = np.zeros(stack.shape, np.int32)
    labels[:, 2:6, 3:9] = 1
    labels[:, 10:15, 20:22] = 2
    labels[:, 14, 22] = 2
    return stack, labels


def bright(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stack and one object of three pixels."""
    labels = np.zeros(stack.shape, np.int32)
    labels[:, 2:5, 3] = 1
    return stack, labels


def pipeline() -> Pipeline:
    return Pipeline(
        [
            Step(max_projection, save=True, name="mip"),
            Step(blobs, channel="DAPI", outputs=Labels("nuclei")),
            Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
        ],
        name="spots",
    )


def analysed(repository: OmeroRepository, plate: int) -> Any:
    plan = compile(pipeline(), repository.plate(plate), discover(), save=True, workers=2)
    return run(plan).result()


def derived(gateway: BlitzGateway, done: Any) -> Any:
    marked = [one for one in gateway.getObjects("Plate") if f"{done.id} mip" in (one.getDescription() or "")]
    (plate,) = marked
    return plate


@pytest.fixture(scope="module")
def of_drawn(lab: Lab) -> Any:
    """Return a run on a plate that a client made."""
    with lab.join("ada") as repository:
        return analysed(repository, lab.made_by_client[0])


@pytest.fixture(scope="module")
def of_acquired(lab: Lab) -> Any:
    """Return a run on an imported plate."""
    with lab.join("ada") as repository:
        return analysed(repository, lab.imported[0])


def test_a_derived_plate_with_the_same_wells_fields_and_channels(
    lab: Lab, gateway: BlitzGateway, of_drawn: Any
) -> None:
    _, made = lab.made_by_client
    done = of_drawn
    plate = derived(gateway, done)
    assert plate.getName() == "drawn spots mip"
    assert [screen.getName() for screen in plate.listParents()] == ["Screen one"]
    wells = {f"{chr(65 + well.row)}{well.column + 1:02d}": well for well in plate.listChildren()}
    assert set(wells) == set(made.wells)
    for name, well in wells.items():
        samples = list(well.listChildren())
        assert len(samples) == made.fields
        for index, sample in enumerate(samples):
            image = sample.getImage()
            assert image.getChannelLabels() == ["DAPI", "GFP"]
            assert image.getPixelSizeX() == pytest.approx(0.65)
            expected = np.max([made.plane(name, index + 1, 1, z) for z in range(3)], axis=0)
            np.testing.assert_array_equal(image.getPrimaryPixels().getPlane(0, 1, 0), expected)


def test_labels_are_masks_on_exactly_their_source_field(lab: Lab, gateway: BlitzGateway, of_acquired: Any) -> None:
    from omero_rois import masks_from_label_image

    done = of_acquired
    service = gateway.getRoiService()
    for well in gateway.getObject("Plate", lab.imported[0]).listChildren():
        for sample in well.listChildren():
            rois = service.findByImage(sample.getImage().getId(), None).rois
            labels = blobs(np.zeros((1, 24, 32)))[1][0]
            expected = masks_from_label_image(labels, text="x")
            shapes = [roi.copyShapes()[0] for roi in rois if done.id in roi.name.val]
            assert [shape.textValue.val for shape in shapes] == ["1", "2"]
            for shape, other in zip(shapes, expected, strict=True):
                assert bytes(shape.getBytes()) == bytes(other.getBytes())
                assert (shape.x.val, shape.y.val) == (other.x.val, other.y.val)


def test_labels_of_a_part_of_larger_pixels_lie_on_their_source_field(
    lab: Lab, ada: OmeroRepository, gateway: BlitzGateway
) -> None:
    steps = [
        Step([(crop, {"y": 4, "x": 2, "height": 20, "width": 30}), bin_pixels, max_projection], save=True, name="mip"),
        Step(bright, channel="DAPI", outputs=Labels("nuclei")),
    ]
    number = lab.made_by_client[0]
    done = run(compile(Pipeline(steps, "part"), ada.plate(number), discover(), save=True, workers=2)).result()
    well = next(one for one in derived(gateway, done).listChildren() if (one.row, one.column) == (0, 0))
    image = next(well.listChildren()).getImage()
    assert image.getPixelSizeX() == pytest.approx(1.3)
    assert (image.getSizeY(), image.getSizeX()) == (10, 15)
    source = ada.plate(number).wells[0].fields[0].images[0]
    rois = [roi for roi in gateway.getRoiService().findByImage(source.id, None).rois if done.id in roi.name.val]
    (mask,) = [roi.copyShapes()[0] for roi in rois]
    assert [part.val for part in (mask.y, mask.x, mask.height, mask.width)] == [8, 8, 6, 2]


@pytest.mark.parametrize("grid", [None, PixelGrid(0.5), PixelGrid(1, 0.25), PixelGrid(y=-1)])
def test_labels_that_lie_on_no_whole_pixels_are_not_moved(grid: PixelGrid | None) -> None:
    assert on_recorded(np.ones((1, 1, 1, 2, 2), np.int64), grid) is None


def test_labels_can_be_polygons(
    lab: Lab, ada: OmeroRepository, gateway: BlitzGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENHCS_OMERO_LABELS", "polygons")
    done = analysed(ada, lab.made_by_client[0])
    image = ada.plate(lab.made_by_client[0]).wells[0].fields[0].images[0]
    rois = [roi for roi in gateway.getRoiService().findByImage(image.id, None).rois if done.id in roi.name.val]
    shapes = [roi.copyShapes()[0] for roi in rois]
    assert [(type(shape).__name__, shape.textValue.val) for shape in shapes] == [("PolygonI", "1"), ("PolygonI", "2")]
    assert shapes[0].points.val == "3.25,2.25 3.25,5.75 8.75,5.75 8.75,2.25"


@settings(deadline=None)
@given(plane=arrays(np.int64, (7, 9), elements=st.integers(0, 3)))
def test_outlines_hold_the_centres_of_an_objects_pixels(plane: np.ndarray) -> None:
    from scipy import ndimage
    from skimage.draw import polygon2mask

    drawn = np.zeros((4, *plane.shape), bool)
    for outline in outlines_of(plane[None, None, None]):
        points = np.array([[float(value) for value in point.split(",")] for point in outline.points.split()])
        drawn[outline.label] |= polygon2mask(plane.shape, points[:, ::-1] - 0.5)
    for label in (1, 2, 3):
        np.testing.assert_array_equal(drawn[label], ndimage.binary_fill_holes(plane == label))


def test_tables_name_well_image_and_roi(lab: Lab, gateway: BlitzGateway, of_acquired: Any) -> None:
    done = of_acquired
    plate = gateway.getObject("Plate", lab.imported[0])
    (annotation,) = [
        one
        for one in plate.listAnnotations(ns="openmicroscopy.org/omero/bulk_annotations")
        if done.id in one.getDescription()
    ]
    table = gateway.c.sf.sharedResources().openTable(annotation.getFile()._obj)
    names = [header.name for header in table.getHeaders()]
    assert names[:3] == ["Well", "Image", "Roi"]
    rows = table.read(list(range(len(names))), 0, table.getNumberOfRows())
    values = {column.name: list(column.values) for column in rows.columns}
    table.close()
    expected = done.table("nuclei")
    assert values["label"] == list(expected["label"])
    images = {sample.getImage().getId() for well in plate.listChildren() for sample in well.listChildren()}
    assert set(values["Image"]) == images
    assert all(number > 0 for number in values["Roi"])


def test_rows_without_a_number_name_no_roi(lab: Lab, of_acquired: Any) -> None:
    with lab.join("ada") as repository:
        writer = OmeroWriter(repository, of_acquired.record)
        rows = {"well": ["A01"] * 5, "field": [1, 1, 1, None, 1], "label": [1, None, "cell", 1, 1.5]}
        ids = writer._ids(pd.DataFrame(rows))
    assert [number > 0 for number in ids["Roi"]] == [True, False, False, False, False]
    assert [number > 0 for number in ids["Image"]] == [True, True, True, False, True]


@pytest.mark.parametrize("far", [7, 2**31 - 1, 2**40])
def test_objects_may_have_any_number(far: int) -> None:
    plane = np.zeros((24, 32), np.int64)
    plane[2:5, 3:9], plane[10:12, 1:4], plane[20:, 20:] = 3, far, -1
    shapes = {mask.label: (mask.y, mask.x, mask.height, mask.width) for mask in masks_of(plane[None, None, None])}
    assert shapes == {3: (2, 3, 3, 6), far: (10, 1, 2, 3)}
    assert {outline.label for outline in outlines_of(plane[None, None, None])} == {3, far}


def test_limits_of_an_image_are_those_of_its_numbers() -> None:
    values = np.array([[1.5, np.nan], [np.inf, -2.0]], np.float32)
    assert limits_of(values) == (-2.0, 1.5)
    assert limits_of(values * np.nan) == (0.0, 1.0)
    assert limits_of(np.array([3, 7], np.uint16)) == (3.0, 7.0)


def test_provenance_stands_at_both_plates(lab: Lab, gateway: BlitzGateway, of_drawn: Any) -> None:
    done = of_drawn
    for plate in (derived(gateway, done), gateway.getObject("Plate", lab.made_by_client[0])):
        (pairs,) = [
            dict(one.getValue())
            for one in plate.listAnnotations(ns="openhcs-jupyter/run")
            if dict(one.getValue())["run"] == done.id
        ]
        assert (pairs["complete"], pairs["name"]) == ("yes", "spots")
    files = {one.getFile().getName() for one in derived(gateway, done).listAnnotations(ns="openhcs-jupyter/documents")}
    assert {"provenance.json", "plan.json"} <= files


def test_results_are_deleted_and_nothing_else(
    lab: Lab, ada: OmeroRepository, gateway: BlitzGateway, of_drawn: Any
) -> None:
    number = lab.made_by_client[0]
    kept, gone = of_drawn, analysed(ada, number)
    before = {image.getId() for image in gateway.getObjects("Image")}
    plates = len([spec for spec in gone.plan.results if spec.kind == "image"])
    assert f"{plates} Plate" in ada.delete_results(gone.id)
    after = {image.getId() for image in gateway.getObjects("Image")}
    assert len(before - after) == 4 * plates
    assert derived(gateway, kept)
    assert not [one for one in gateway.getObjects("Plate") if gone.id in (one.getDescription() or "")]
    rois = gateway.getQueryService().findAllByQuery("select r from Roi r where r.name like '%" + gone.id + "%'", None)
    assert rois == []
    assert ada.plate(number).wells


def test_pixels_that_came_from_files_give_the_same_results(lab: Lab, direct: OmeroRepository, of_drawn: Any) -> None:
    through_server = of_drawn
    plan = compile(pipeline(), direct.plate(lab.made_by_client[0]), discover(), workers=2)
    in_place = run(plan, force=True).result()
    assert any("through the OMERO server" in line for line in through_server.notices)
    told, rate = in_place.notices
    assert told == "4 of 4 images are read in place."
    assert re.fullmatch(r"0\.0 MB were read, [\d,]+ MB/s by each worker\.", rate)
    for well, field in (("A01", 1), ("B02", 2)):
        one, other = (done.image("mip", well=well, field=field) for done in (through_server, in_place))
        np.testing.assert_array_equal(one, other)
