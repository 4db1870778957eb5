"""What a user sees: runs of other processes in a real napari window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.engine import Run
from openhcs_jupyter.model import parse_well
from openhcs_jupyter.viewer.views.plate_map import COLOURS
from tests.viewer.conftest import RunElsewhere
from tests.viewer.screen import OpenWindow

FIELDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def finished_window(screen: str, finished: Run) -> Iterator[OpenWindow]:
    """A window on a run that has ended; several tests look at it."""
    window = OpenWindow(finished.folder)
    window.until(lambda: len(window.viewer.layers) == 6, "all layers")
    window.until_painted()
    yield window
    window.close()


@pytest.fixture
def window(finished_window: OpenWindow) -> OpenWindow:
    """The window on the run that has ended, one field at a time."""
    finished_window.session.arrange("field")
    finished_window.until_painted()
    return finished_window


def _click(window: OpenWindow, well: str) -> None:
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    window.until_painted()
    at = QPoint(*window.panel.plate_map.centre_of(well))
    QTest.mouseClick(window.panel.plate_map, Qt.MouseButton.LeftButton, pos=at)
    window.until_painted()


def _press(window: OpenWindow, mode: str) -> None:
    window.panel.mode_button(mode).click()
    window.until_painted()


def _well_colour(window: OpenWindow, well: str) -> str:
    picture = window.panel.plate_map.grab().toImage()
    x, y = window.panel.plate_map.centre_of(well)
    return picture.pixelColor(x, y).name()


def _whole(window: OpenWindow, name: str, *position: int) -> np.ndarray:
    """Return what a layer has at a position of the sliders, in full."""
    return np.array(window.layer(name).data[0][position])


def test_results_appear_while_another_process_computes_them(
    demo_plate: Path, run_elsewhere: Callable[..., RunElsewhere], open_window: Callable[..., OpenWindow]
) -> None:
    run = run_elsewhere(demo_plate)
    window = open_window(run.folder)
    window.until(lambda: window.panel.runs.count() == 1, "the run in the panel")
    window.until(lambda: _well_colour(window, "A01") == COLOURS["waiting"], "a well that waits")
    assert not window.viewer.layers or not window.session.store.bytes
    run.release("A01")
    window.until(lambda: "nuclei" in window.viewer.layers, "the first labels")
    window.until(lambda: _well_colour(window, "A01") == COLOURS["done"], "a well that is done")
    window.until_painted()
    assert _well_colour(window, "B03") == COLOURS["waiting"]
    assert window.panel.place.text() == "A01 · field 1"
    assert window.drawn("max_projection DAPI").any()
    shape = window.layer("max_projection DAPI").data.shape
    window.keep_screenshot("while-it-runs")
    run.release()
    done = run.wait()
    window.until(lambda: "done" in window.panel.sentence.text(), "the end of the run")
    for well in ("A01", "A03", "B01", "B02", "B03"):
        window.until(lambda well=well: _well_colour(window, well) == COLOURS["done"], f"{well} to be done")
    # The layers had their full extents from the first result on.
    assert window.layer("max_projection DAPI").data.shape == shape == (6, 4, 1, 3, 540, 540)
    _every_plane_is_right(window, done)


def _every_plane_is_right(window: OpenWindow, done: Run) -> None:
    for well in ("A01", "B02", "B03"):
        _click(window, well)
        for field in FIELDS:
            window.session.go(well, field)
            window.until_painted()
            assert window.panel.place.text() == f"{well} · field {field}"
            projection = done.image("max_projection", well=well, field=field)
            for c, channel in enumerate(("DAPI", "GFP")):
                np.testing.assert_array_equal(window.drawn(f"max_projection {channel}"), projection[0, c, 0])
            labels = done.labels("nuclei", well=well, field=field)
            np.testing.assert_array_equal(window.drawn("nuclei"), labels[0, 0, 0])
            table = done.table("spots")
            here = table[(table.well == well) & (table.field == field)]
            np.testing.assert_allclose(window.layer("spots").data, here[["y", "x"]])


def test_a_failed_well_is_told_and_the_window_goes_to_one_that_is_there(
    demo_plate: Path, run_elsewhere: Callable[..., RunElsewhere], open_window: Callable[..., OpenWindow]
) -> None:
    run = run_elsewhere(demo_plate, "--wells", "A01,A02", bad=("A01",))
    window = open_window(run.folder)
    window.until(lambda: window.panel.place.text().startswith("A01"), "the first well")
    window.until(lambda: _well_colour(window, "A01") == COLOURS["failed"], "the failure")
    assert "step raw: ValueError: the lamp was off" in window.panel.plate_map.tip_of("A01")
    run.release()
    # Nobody has moved the sliders.
    window.until(lambda: window.panel.place.text().startswith("A02"), "a well that is there")
    window.until(lambda: "failed" in window.panel.sentence.text(), "the failures to be counted")
    run.wait(code=1)
    window.until_painted()
    assert not window.panel.reason.text()
    _click(window, "A01")
    assert "the lamp was off" in window.panel.reason.text()
    assert window.panel.reason.isVisibleTo(window.panel)
    window.keep_screenshot("failed-well")


def test_layers_are_named_coloured_and_scaled_as_the_plate_says(finished: Run, window: OpenWindow) -> None:
    window.until_painted()
    names = [layer.name for layer in window.viewer.layers]
    assert names == ["raw DAPI", "raw GFP", "max_projection DAPI", "max_projection GFP", "nuclei", "spots"]
    visible = [layer.name for layer in window.viewer.layers if layer.visible]
    assert visible == ["max_projection DAPI", "max_projection GFP", "nuclei", "spots"]
    dapi, gfp = (window.layer(f"max_projection {channel}") for channel in ("DAPI", "GFP"))
    assert np.argmax(dapi.colormap.colors[-1][:3]) == 2
    assert np.argmax(gfp.colormap.colors[-1][:3]) == 1
    for layer in window.viewer.layers:
        assert tuple(layer.scale[-2:]) == (0.65, 0.65)
        # Its upper left corner lies at 0, however large its pixels are.
        assert tuple(layer.data_to_world([-0.5] * layer.ndim)[-2:]) == pytest.approx((0, 0))
        assert [str(unit) for unit in layer.units[-2:]] == ["micrometer"] * 2
    for layer in (dapi, gfp):
        low, high = layer.contrast_limits
        values = np.concatenate(
            [finished.image("max_projection", well=well, field=1)[0].ravel() for well in ("A01", "B03")]
        )
        assert values.min() <= low < high < 65535
        assert high <= values.max() * 1.5
    assert window.viewer.dims.axis_labels == ("well", "field", "t", "z", "y", "x")
    picture = window.canvas()
    assert (picture[..., :3].max(axis=2) > 60).mean() > 0.01
    assert (picture[..., :3].max(axis=2) < 40).mean() > 0.5


def test_the_z_slider_goes_through_a_stack_and_keeps_its_labels_over_it(finished: Run, window: OpenWindow) -> None:
    window.session.go("B02", 3)
    window.layer("raw DAPI").visible = True
    stack = finished.image("raw", well="B02", field=3)[0, 0]
    labels = finished.labels("nuclei", well="B02", field=3)[0, 0, 0]
    for z in range(3):
        window.viewer.dims.set_current_step(3, z)
        window.until_painted()
        np.testing.assert_array_equal(window.drawn("raw DAPI"), stack[z])
        np.testing.assert_array_equal(window.drawn("nuclei"), labels)


def test_fields_are_laid_out_by_their_stage_positions(finished: Run, window: OpenWindow) -> None:
    _click(window, "B02")
    _press(window, "well")
    window.until(lambda: len(window.layer("nuclei").features) > 50, "the tables")
    window.keep_screenshot("well")
    layer = "max_projection GFP"
    mosaic, labels = _whole(window, layer, 4, 0, 0, 0), _whole(window, "nuclei", 4, 0, 0, 0)
    # Four fields of 540 pixels that share a tenth with their neighbours.
    assert mosaic.shape == (1026, 1026)
    for field, (y, x) in zip(FIELDS, ((0, 0), (0, 486), (486, 0), (486, 486)), strict=True):
        inner = (slice(60, 480), slice(60, 480))
        there = (slice(y + 60, y + 480), slice(x + 60, x + 480))
        image = finished.image("max_projection", well="B02", field=field)[0, 1, 0]
        np.testing.assert_array_equal(mosaic[there], image[inner])
        one = finished.labels("nuclei", well="B02", field=field)[0, 0, 0][inner]
        np.testing.assert_array_equal(labels[there] > 0, one > 0)
    # No object of one field has the number of another's.
    assert len(set(np.unique(labels[60:480, 60:480])) & set(np.unique(labels[546:966, 546:966]))) == 1
    # What a table says of an object is found under the number that is shown.
    features = window.layer("nuclei").features
    assert set(np.unique(labels)) - {0} <= set(features["index"])


def test_a_whole_plate_is_shown_from_small_planes(finished: Run, window: OpenWindow) -> None:
    _press(window, "plate")
    window.keep_screenshot("plate")
    layer = window.layer("max_projection DAPI")
    assert layer.data_level > 0
    shape = layer.data.shape
    assert shape[:2] == (1, 1)
    shown = window.drawn("max_projection DAPI")
    mean = np.mean(
        [finished.image("max_projection", well=f"{r}0{c}", field=1)[0, 0].mean() for r in "AB" for c in (1, 2, 3)]
    )
    assert shown[shown > 0].mean() == pytest.approx(mean, rel=0.1)
    # A click on the map brings the well into the middle.
    _click(window, "B03")
    row, column = parse_well("B03")
    centre = window.viewer.scene.camera.center[-2:]
    assert centre[0] / (shape[-2] * 0.65) == pytest.approx((row + 0.5) / 2, abs=0.03)
    assert centre[1] / (shape[-1] * 0.65) == pytest.approx((column + 0.5) / 3, abs=0.03)
    _press(window, "field")
    assert window.panel.place.text().startswith("B03")


def test_resting_on_a_nucleus_shows_its_row(finished: Run, window: OpenWindow) -> None:
    window.session.go("A03", 2)
    window.until_painted()
    labels = finished.labels("nuclei", well="A03", field=2)[0, 0, 0]
    y, x = (int(place[0]) for place in np.nonzero(labels))
    table = finished.table("nuclei")
    row = table[(table.well == "A03") & (table.field == 2) & (table.label == labels[y, x])].iloc[0]
    layer = window.layer("nuclei")
    status = layer.get_status(layer.data_to_world((2, 1, 0, 0, y, x)), world=True)["coordinates"]
    assert f"area: {row.area:.0f}"[:9] in status


def test_a_window_that_is_closed_and_opened_again_shows_everything(
    finished: Run, open_window: Callable[..., OpenWindow]
) -> None:
    pictures = []
    for _ in range(2):
        window = open_window(finished.folder)
        window.until(lambda window=window: len(window.viewer.layers) == 6, "all layers")
        window.session.go("B01", 4)
        window.until_painted()
        pictures.append(window.canvas())
        assert [_well_colour(window, well) for well in ("A01", "B03")] == [COLOURS["done"]] * 2
        window.close()
    first, second = (picture.astype(int) for picture in pictures)
    assert (np.abs(first - second) > 16).mean() < 1e-4


def test_two_runs_share_the_sliders_and_one_is_chosen_in_the_panel(
    finished: Run,
    demo_plate: Path,
    run_elsewhere: Callable[..., RunElsewhere],
    open_window: Callable[..., OpenWindow],
) -> None:
    second = run_elsewhere(demo_plate, "--wells", "A02,B02")
    second.release()
    done = second.wait()
    window = open_window(finished.folder, second.folder)
    window.until(lambda: len(window.viewer.layers) == 12, "the layers of both runs")
    window.session.go("B02", 1)
    window.until_painted()
    assert window.panel.runs.count() == 2
    assert window.layer("nuclei").visible
    assert not window.layer("nuclei: nuclei").visible
    window.session.choose(done.id)
    window.until_painted()
    assert not window.layer("nuclei").visible
    shown = window.drawn("nuclei: max_projection DAPI")
    np.testing.assert_array_equal(shown, done.image("max_projection", well="B02", field=1)[0, 0, 0])
    # A well that the run does not have is empty.
    window.session.go("A01")
    window.until_painted()
    assert not window.drawn("nuclei: max_projection DAPI").any()


def test_contrast_that_the_user_has_set_is_left_alone(
    demo_plate: Path, run_elsewhere: Callable[..., RunElsewhere], open_window: Callable[..., OpenWindow]
) -> None:
    run = run_elsewhere(demo_plate, "--wells", "A01,A02")
    window = open_window(run.folder)
    run.release("A01")
    window.until(lambda: "max_projection DAPI" in window.viewer.layers, "the first image")
    window.until_painted()
    window.layer("max_projection DAPI").contrast_limits = (1, 77)
    run.release()
    run.wait()
    window.until(lambda: "done" in window.panel.sentence.text(), "the end of the run")
    window.until_painted()
    assert tuple(window.layer("max_projection DAPI").contrast_limits) == (1, 77)


def test_the_real_imagexpress_plate_is_shown(
    real_plates: Path, run_elsewhere: Callable[..., RunElsewhere], open_window: Callable[..., OpenWindow]
) -> None:
    pipeline = """
from openhcs_jupyter import Labels, Step, Table
from openhcs_jupyter.functions import gaussian_blur, max_projection, measure_objects, segment_nuclei

pipeline_steps = [
    Step(max_projection, save=True),
    Step(gaussian_blur, {{"sigma": 2}}),
    Step(segment_nuclei, channel="w1", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={{"labels": "nuclei"}}, outputs=Table("nuclei")),
]
"""
    folder = real_plates / "imagexpress" / "Projection-Mix"
    run = run_elsewhere(folder, "--channels", "w1,w2", pipeline=pipeline)
    window = open_window(run.folder)
    done: Any = run.wait()
    window.until(lambda: "done" in window.panel.sentence.text(), "the end of the run")
    window.until_painted()
    _click(window, "E08")
    window.keep_screenshot("imagexpress-field")
    for c, channel in enumerate(("w1", "w2")):
        expected = done.image("max_projection", well="E08", field=1)[0, c, 0]
        np.testing.assert_array_equal(window.drawn(f"max_projection {channel}"), expected)
    np.testing.assert_array_equal(window.drawn("nuclei"), done.labels("nuclei", well="E08", field=1)[0, 0, 0])
    # Both channels have the same wavelength in these files, and are told apart all the same.
    colours = {tuple(window.layer(f"max_projection {channel}").colormap.colors[-1]) for channel in ("w1", "w2")}
    assert len(colours) == 2
    _press(window, "well")
    window.keep_screenshot("imagexpress-well")
    _press(window, "plate")
    window.keep_screenshot("imagexpress-plate")
