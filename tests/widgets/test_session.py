"""Widgets where nothing shows widgets, and what they say of what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from openhcs_jupyter import Labels, Step, Table
from openhcs_jupyter.engine import Run
from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.functions import gaussian_blur, max_projection, percentile_normalize, segment_nuclei
from openhcs_jupyter.pipeline import measure
from openhcs_jupyter.widgets import build, plate_view, tune
from openhcs_jupyter.widgets.parameters import documented, parameters_of, span_of, suggested
from openhcs_jupyter.widgets.session import WIDGET_TYPE, session
from openhcs_jupyter.widgets.sources import source_of
from openhcs_jupyter.widgets.wells import DONE, FAILED, WellStates, plate_size
from tests.engine.bench import Bench
from tests.engine.conftest import make_bench  # noqa: F401 - a fixture


@pytest.fixture
def bench(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> Bench:  # noqa: F811 - a fixture
    """Return a bench whose repository is the session's, where nobody looks."""
    monkeypatch.setenv("OPENHCS_BATCH", "1")
    made = make_bench(wells=("A01", "A02", "B03"), fields=2, z=1)
    monkeypatch.setattr(session, "repository", made.repository)
    monkeypatch.setattr(session, "plate", made.plate.id)
    return made


@pytest.fixture
def counted(bench: Bench) -> Run:
    @measure(stack="channel")
    def brightness(stack: object, context: object) -> object:
        if context.well == "A02":  # type: ignore[attr-defined]  # a context
            raise ValueError("out of focus")
        return {"value": [1.0 * context.field, 3.0 * context.field]}  # type: ignore[attr-defined]  # a context

    return bench.run(Step(max_projection, save=True), Step(brightness, outputs=Table("cells")))


def test_a_plate_view_in_a_batch_is_a_picture_and_text(counted: Run) -> None:
    forms = plate_view(counted)._repr_mimebundle_()
    assert WIDGET_TYPE not in forms
    assert "data:image/png;base64," in forms["text/html"]
    assert "median value" in forms["text/plain"]


def test_a_map_has_the_statistic_of_each_well_and_nothing_where_there_is_none(counted: Run) -> None:
    source = source_of(counted)
    values = source.values("cells", "value", "mean")
    assert values[0] == 3.0
    assert math.isnan(values[1])
    assert values[source.plate.columns + 2] == 3.0
    assert source.values("cells", "(rows)")[0] == 4


def test_wells_that_failed_are_told_with_their_reason(counted: Run) -> None:
    wells = WellStates(counted)
    wells.refresh()
    packed = wells.packed()
    assert (packed[0], packed[1]) == (DONE, 255)
    assert packed[2] == FAILED
    reasons, failed = wells.reasons()
    assert failed == {"1": 0}
    assert "out of focus" in reasons[0]
    assert len(packed) == 2 * wells.rows * wells.columns


def test_selected_wells_are_asked_for_before_a_run_starts(bench: Bench) -> None:
    with pytest.raises(UsageError, match="No wells of plate 'plate' are selected"):
        session.selected(bench.plate)
    session.select(bench.plate, ("A01", "B03"))
    assert session.selected(bench.plate) == ("A01", "B03")


def test_tune_and_build_in_a_batch_are_their_code(bench: Bench) -> None:
    step = Step({"DAPI": [gaussian_blur, (percentile_normalize, {"low": 2})]}, save=True, name="both")
    text = tune([step], well="B03").code
    assert 'Step({"DAPI": [gaussian_blur, (percentile_normalize, {"low": 2})]}, save=True)' in text
    assert WIDGET_TYPE not in build()._repr_mimebundle_()
    labels = Step(segment_nuclei, {"min_area": 9.5}, channel="DAPI", outputs=Labels("nuclei"))
    assert "Step(segment_nuclei, {\"min_area\": 9.5}, channel='DAPI', outputs=Labels('nuclei'))" in tune(labels).code


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: tune(Step(max_projection), "blur"), "There is no step 'blur'"),
        (lambda: tune(Step(max_projection), well="H12"), "has no well H12"),
        (lambda: build("x = 1"), "assigns no list"),
        (lambda: plate_view("nowhere"), "nowhere"),
        (lambda: plate_view(3.5), "neither a run nor a plate"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_what_is_wrong_is_named(bench: Bench, work: Callable[[], object], said: str) -> None:
    with pytest.raises(OpenHCSError, match=said):
        work()


def test_parameters_come_from_signature_and_documentation() -> None:
    sigma, method, *others = parameters_of(segment_nuclei)
    assert (sigma.name, sigma.kind, sigma.default) == ("sigma", "float", 1.0)
    assert (method.name, method.kind) == ("method", "text")
    assert {parameter.name: parameter.kind for parameter in others}["seed_distance"] == "int"
    assert "smaller" in documented(segment_nuclei)["min_area"].lower() or documented(segment_nuclei)["min_area"]
    per = parameters_of(percentile_normalize)[-1]
    assert (per.kind, per.choices) == ("choice", ("stack", "plane"))
    assert suggested(segment_nuclei, "segment_nuclei", {"nuclei": "labels"}) == {"outputs": 'Labels("nuclei2")'}


@pytest.mark.parametrize("value", [0.001, 0.5, 1.0, 2.0, 30.0, 99.8, 4000.0, -3.0, 0.0])
@pytest.mark.parametrize("whole", [True, False])
def test_a_slider_reaches_around_its_value(value: float, whole: bool) -> None:
    value = float(round(value)) if whole else value
    least, most, step = span_of(value, whole=whole)
    assert least <= value <= most
    assert step > 0
    assert most > least


def test_plates_take_the_smallest_usual_format() -> None:
    assert plate_size([(0, 0), (3, 5)]) == (4, 6)
    assert plate_size([(7, 0)]) == (8, 12)
    assert plate_size([(15, 23)]) == (16, 24)
    assert plate_size([(0, 40)]) == (32, 48)
    assert plate_size([]) == (0, 0)


def test_pictures_mix_channels_and_hold_to_white() -> None:
    from openhcs_jupyter.widgets.pictures import Layer, colored, outlined, shrunk

    plane = np.array([[0, 50], [100, 1000]], np.uint16)
    mixed = colored([Layer(plane, 0, 100, (255, 0, 0)), Layer(plane, 0, 100, (0, 100, 0))])
    np.testing.assert_array_equal(mixed[1, 0], (255, 100, 0))
    np.testing.assert_array_equal(mixed[1, 1], (255, 100, 0))
    np.testing.assert_array_equal(mixed[0, 0], (0, 0, 0))
    nan = colored([Layer(np.array([[np.nan, 1.0]], np.float32), 0, 1, (255, 255, 255))])
    np.testing.assert_array_equal(nan[0, :, 0], (0, 255))
    labels = np.zeros((9, 9), np.int32)
    labels[2:7, 2:7] = 3
    edges = outlined(np.zeros((9, 9, 3), np.uint8), labels, (9, 9, 9))
    assert edges[4, 4, 0] == 0
    assert edges[2, 2, 0] == 9
    assert max(shrunk(np.ones((300, 200), np.int64), 100).shape) <= 100
