"""Stages are split only where a step needs what another unit makes."""

from __future__ import annotations

from typing import Any

import pytest

from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.pipeline import ImageOutput, Labels, Step, Table
from tests.compiler.functions import (
    MeanImage,
    blur,
    correct,
    count,
    per_field,
    per_plate,
    per_well,
    plain,
    project,
    segment,
)
from tests.compiler.plates import make_plate, plan_of

NUCLEI = Step(segment, channel="DAPI", outputs=Labels("nuclei"))
COUNTED = Step(count, channel="DAPI", inputs={"labels": "nuclei"}, outputs=Table("counts"))
COUNTED_ALONE = Step(count, channel="DAPI", outputs=Table("counts"))
MEAN = Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean"))
CORRECT = Step(correct, channel="DAPI", inputs={"mean": "mean"})


def over(function: Any, table: str, made: str) -> Step:
    return Step(function, inputs={"objects": table}, outputs=Table(made))


def shape(plan: ExecutionPlan) -> list[tuple[str, str, tuple[int, ...], int | None]]:
    return [(stage.kind, stage.scope, stage.steps, stage.starts_from) for stage in plan.stages]


def test_steps_on_fields_are_one_stage() -> None:
    plan = plan_of([Step(blur), NUCLEI, COUNTED, Step(plain)])
    assert shape(plan) == [("compute", "field", (0, 1, 2, 3), None)]
    assert (plan.stages[0].name, plan.stages[0].units) == ("blur to plain", 4)


def test_a_table_of_each_field_is_made_with_the_field() -> None:
    plan = plan_of([NUCLEI, COUNTED, over(per_field, "counts", "t"), Step(blur)])
    assert shape(plan) == [("compute", "field", (0, 1, 2, 3), None)]


def test_tables_wait_for_wells_and_for_the_plate() -> None:
    steps = [
        NUCLEI,
        COUNTED,
        over(per_well, "counts", "wells"),
        over(per_plate, "wells", "plate"),
        over(per_well, "counts", "more_wells"),
        over(per_plate, "counts", "more"),
        Step(blur),
    ]
    assert shape(plan_of(steps)) == [
        ("compute", "field", (0, 1, 6), None),
        ("compute", "well", (2, 4), None),
        ("compute", "plate", (3, 5), None),
    ]


def test_a_step_that_takes_a_table_of_wells_goes_on_with_carried_images() -> None:
    use = Step(lambda stack, wells: stack, inputs={"wells": "wells"})
    plan = plan_of([Step(blur), NUCLEI, COUNTED, over(per_well, "counts", "wells"), use, Step(plain)])
    assert shape(plan) == [
        ("compute", "field", (0, 1, 2), None),
        ("compute", "well", (3,), None),
        ("compute", "field", (4, 5), 0),
    ]
    assert [stage.carries for stage in plan.stages] == [True, False, False]


def test_a_step_that_takes_the_fields_of_a_well_together_goes_on_with_their_images() -> None:
    plan = plan_of([Step(blur), Step(project, stack="field"), Step(plain)])
    assert shape(plan) == [("compute", "field", (0,), None), ("compute", "well", (1, 2), 0)]
    assert [stage.units for stage in plan.stages] == [4, 2]


def test_a_field_step_after_a_well_s_stays_with_the_well() -> None:
    steps = [
        Step(plain, stack="field"),
        Step(segment, channel="DAPI", outputs=Table("t")),
        over(per_well, "t", "wells"),
    ]
    assert shape(plan_of(steps)) == [("compute", "well", (0, 1, 2), None)]
    use = Step(lambda stack, plate: stack, inputs={"plate": "plate"})
    plan = plan_of([*steps[:2], over(per_plate, "t", "plate"), use])
    assert shape(plan)[2] == ("compute", "well", (3,), 0)


def test_tables_of_a_well_do_not_wait_for_its_images() -> None:
    plan = plan_of([COUNTED_ALONE, Step(plain, stack="field"), over(per_well, "counts", "wells")])
    assert shape(plan) == [
        ("compute", "field", (0,), None),
        ("compute", "well", (1,), None),
        ("compute", "well", (2,), None),
    ]


def test_a_small_reducer_is_finished_at_once_and_later_steps_read_the_source_again() -> None:
    plan = plan_of([MEAN, CORRECT])
    assert shape(plan) == [
        ("compute", "field", (0,), None),
        ("finish", "plate", (0,), None),
        ("compute", "field", (1,), None),
    ]
    assert not any(stage.carries for stage in plan.stages)


def test_steps_after_a_reducer_that_do_not_need_it_do_not_wait() -> None:
    plan = plan_of([Step(blur), MEAN, Step(plain), CORRECT])
    assert shape(plan) == [
        ("compute", "field", (0, 1, 2), None),
        ("finish", "plate", (1,), None),
        ("compute", "field", (3,), 0),
    ]
    assert plan.stages[0].carries


def test_images_that_were_only_measured_are_read_again_and_not_carried() -> None:
    plan = plan_of([Step(count, channel="DAPI", outputs=Table("t")), MEAN, CORRECT])
    assert plan.stages[-1].starts_from is None


def test_images_are_carried_from_the_stage_that_changed_them() -> None:
    other = Step(MeanImage, channel="DAPI", name="again", outputs=ImageOutput("other"))
    steps = [Step(blur), MEAN, Step(count, channel="DAPI", inputs={"labels": "mean"}, outputs=Table("t")), other]
    plan = plan_of([*steps, Step(correct, channel="DAPI", inputs={"mean": "other"})])
    assert shape(plan) == [
        ("compute", "field", (0, 1), None),
        ("finish", "plate", (1,), None),
        ("compute", "field", (2, 3), 0),
        ("finish", "plate", (3,), None),
        ("compute", "field", (4,), 0),
    ]


def test_two_reducers_are_waited_for_in_one_stage() -> None:
    other = Step(MeanImage, channel="DAPI", name="other", outputs=ImageOutput("other"))
    plan = plan_of([MEAN, other, CORRECT, Step(correct, channel="DAPI", inputs={"mean": "other"}, name="second")])
    assert shape(plan) == [
        ("compute", "field", (0, 1), None),
        ("finish", "plate", (0,), None),
        ("finish", "plate", (1,), None),
        ("compute", "field", (2, 3), None),
    ]


@pytest.mark.parametrize(
    ("wells", "merges"),
    [(16, []), (17, [2]), (256, [16]), (257, [17, 2])],
)
def test_a_reducer_s_states_are_merged_by_sixteens(wells: int, merges: list[int]) -> None:
    names = [f"{row}{column:02d}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)][:wells]
    plan = plan_of([MEAN], make_plate(names, 1))
    assert [stage.units for stage in plan.stages if stage.kind == "merge"] == merges
    assert [stage.units for stage in plan.stages if stage.kind == "finish"] == [1]
    assert [stage.name for stage in plan.stages][-1] == "finish MeanImage"
    made: dict[int, list[int]] = {}
    for unit in plan.units:
        made.setdefault(unit.stage, []).append(unit.id)
        if unit.stage:
            assert 1 <= len(unit.parents) <= 16
    for below, above in zip(plan.stages, plan.stages[1:], strict=False):
        parents = [parent for unit in made[above.index] for parent in plan.units[unit].parents]
        assert parents == made[below.index]


def test_saving_follows_what_makes_images() -> None:
    plan = plan_of([Step(blur, save=True), NUCLEI, COUNTED], save=True)
    assert shape(plan)[-1] == ("save", "field", (0, 1), None)
    plan = plan_of([Step(blur), Step(project, stack="field", save=True)], save=True)
    assert shape(plan)[-1] == ("save", "well", (1,), None)
    assert [stage.kind for stage in plan_of([COUNTED_ALONE], save=True).stages] == ["compute"]
