"""A plan is a value: it survives JSON whatever it was made of."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.errors import CompileError
from openhcs_jupyter.model import Plate, well_name
from openhcs_jupyter.pipeline import ImageOutput, Labels, Points, Step, Table
from tests.compiler.functions import (
    MeanImage,
    blur,
    correct,
    count,
    mix,
    per_field,
    per_plate,
    per_well,
    plain,
    project,
    segment,
)
from tests.compiler.plates import layout, make_plate, plan_of

CHANNELS = ("DAPI", "GFP", "Cy5 é")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def plates(draw: st.DrawFn) -> Plate:
    wells = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5, unique=True))
    names = [well_name(*place) for place in sorted(wells)]
    channels = draw(st.integers(1, 3))
    z, t, fields = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    planes = st.tuples(st.integers(0, t - 1), st.integers(0, channels - 1), st.integers(0, z - 1))
    missing = draw(st.lists(planes, max_size=3, unique=True))
    short = {(names[0], 1): layout(channels, z, t, missing)}
    return make_plate(names, fields, CHANNELS[:channels], z, t, layouts=short)


@st.composite
def pipelines(draw: st.DrawFn, channels: tuple[str, ...] = CHANNELS) -> list[Step]:
    channel = st.none() | st.sampled_from(channels)
    kinds = st.sampled_from(
        ["blur", "plain", "chain", "dict", "project", "mix", "segment", "count", "reduce", "table", "correct"]
    )
    steps: list[Step] = []
    for number, kind in enumerate(draw(st.lists(kinds, min_size=1, max_size=8))):
        how: dict[str, Any] = {"name": f"step{number}"}
        if kind not in ("table", "reduce"):
            how["save"] = draw(st.booleans())
        if kind not in ("table", "dict"):
            how["channel"] = draw(channel)
        if kind in ("blur", "plain", "project"):
            how["stack"] = draw(st.sampled_from([None, "z", "t", "field", "channel"]))
        tables = [o.name for step in steps for o in step.outputs if isinstance(o, Table)]
        means = [o.name for step in steps for o in step.outputs if isinstance(o, ImageOutput)]
        if kind == "blur":
            steps.append(Step(blur, {"sigma": draw(VALUES)}, **how))
        elif kind in ("plain", "project"):
            steps.append(Step(plain if kind == "plain" else project, **how))
        elif kind == "chain":
            steps.append(Step([blur, (plain, {"amount": draw(VALUES)})], **how))
        elif kind == "dict":
            steps.append(Step({draw(st.sampled_from(channels)): [blur, plain]}, **how))
        elif kind == "mix":
            steps.append(Step(mix, **how))
        elif kind == "segment":
            steps.append(Step(segment, outputs=draw(st.sampled_from([Labels, Points]))(f"out{number}"), **how))
        elif kind == "count":
            steps.append(Step(count, outputs=Table(f"out{number}"), **how))
        elif kind == "reduce":
            steps.append(Step(MeanImage, outputs=ImageOutput(f"out{number}"), **how))
        elif kind == "table" and tables:
            function = draw(st.sampled_from([per_field, per_well, per_plate]))
            inputs = {"objects": draw(st.sampled_from(tables))}
            steps.append(Step(function, inputs=inputs, outputs=Table(f"out{number}"), **how))
        elif kind == "correct" and means:
            steps.append(Step(correct, inputs={"mean": draw(st.sampled_from(means))}, **how))
    return steps or [Step(blur)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plates(), pipelines(), st.booleans(), st.booleans())
def test_whatever_compiles_is_a_sound_plan_that_survives_json(
    plate: Plate, steps: list[Step], save: bool, skip_missing: bool
) -> None:
    try:
        plan = plan_of(steps, plate, save=save, skip_missing=skip_missing)
    except CompileError as error:
        lines = [problem.line or 0 for problem in error.problems]
        assert lines
        assert lines == sorted(lines)
        return
    again = ExecutionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    _check_sound(plan)


def _check_sound(plan: ExecutionPlan) -> None:
    place: dict[int, int] = {}
    for stage in plan.stages:
        assert stage.units == sum(unit.stage == stage.index for unit in plan.units) > 0
        assert stage.starts_from is None or plan.stages[stage.starts_from].carries
        for index in stage.steps if stage.kind != "save" else ():
            place[index] = stage.index
    assert set(place) == {step.index for step in plan.steps}
    taken = {channel.channel.name for channel in plan.channels}
    assert taken <= {name for step in plan.steps for name in step.channels}
    for unit in plan.units:
        stage = plan.stages[unit.stage]
        above = [plan.units[parent] for parent in unit.parents]
        assert all(parent.id < unit.id and parent.stage < unit.stage for parent in above)
        if unit.well is not None:
            assert all(parent.well in (None, unit.well) for parent in above)
        if stage.kind == "compute" and stage.starts_from is not None:
            assert any(parent.stage == stage.starts_from for parent in above)
            # A unit takes the images of whole units: it never reaches less far than they do.
            assert unit.field is None or all(p.field for p in above if p.stage == stage.starts_from)
        needed = {entry.step for index in stage.steps for entry in plan.steps[index].inputs}
        if stage.kind == "compute":
            assert {place[index] for index in needed} - {stage.index} <= {parent.stage for parent in above}
        assert unit.read_bytes <= unit.peak_bytes
    assert len({unit.key for unit in plan.units}) == len(plan.units)
    names = [(r.kind in ("image", "labels"), r.name) for r in plan.results]
    assert names
    assert len(set(names)) == len(names)


class Mode(enum.IntEnum):
    FAST = 1


cyclic: list[Any] = []
cyclic.append(cyclic)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.float32(0.5), 0.5),
        (np.float64("nan"), "nan"),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.zeros((2, 3)), "<array (2, 3) float64>"),
        (float("inf"), "inf"),
        (1 << 80, str(1 << 80)),
        ("a\ud800", "a\\ud800"),
        ((1, [2.5, None]), [1, [2.5, None]]),
        ({1: "a"}, {"1": "a"}),
        (Path("/data"), "PosixPath('/data')"),
        (Mode.FAST, "<Mode.FAST: 1>"),
        (b"x" * 500, "<bytes>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_are_said_as_they_are_or_briefly(value: Any, said: Any) -> None:
    plan = plan_of([Step(blur, {"sigma": value})])
    assert plan.steps[0].chains["*"][0].params == {"sigma": said}
    assert ExecutionPlan.from_json(plan.to_json()) == plan


def test_a_parameter_that_holds_itself_is_said_in_the_end() -> None:
    plan = plan_of([Step(blur, {"sigma": cyclic})])
    assert ExecutionPlan.from_json(plan.to_json()) == plan


def test_what_is_not_a_plan_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        ExecutionPlan.from_json(b'{"name": "run"}')


def test_a_plan_is_bound_to_what_it_was_made_from() -> None:
    plate = make_plate()
    plan = plan_of([Step(blur)], plate)
    assert plan.plate is plate
    assert plan.pipeline.steps[0].name == "blur"


def test_the_same_pipeline_makes_the_same_plan() -> None:
    one, other = (plan_of([Step(blur, {"sigma": 2.0}), Step(project, save=True)]) for _ in range(2))
    assert one == other
