"""Units: who needs whom, and when a result is the same as an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.model import Plate
from openhcs_jupyter.pipeline import ImageOutput, Labels, Pipeline, Step, Table
from tests.compiler.functions import (
    MeanImage,
    blur,
    correct,
    count,
    locate,
    mix,
    per_plate,
    per_well,
    plain,
    project,
    segment,
)
from tests.compiler.plates import layout, make_plate, plan_of

NUCLEI = Step(segment, channel="DAPI", outputs=Labels("nuclei"))
COUNTED = Step(count, channel="DAPI", inputs={"labels": "nuclei"}, outputs=Table("counts"))
WELLS = Step(per_well, inputs={"objects": "counts"}, outputs=Table("wells"))


def units(plan: ExecutionPlan, stage: int = 0) -> dict[tuple[str | None, int | None], str]:
    return {(unit.well, unit.field): unit.fingerprint for unit in plan.units if unit.stage == stage}


def parents(
    plan: ExecutionPlan, stage: int
) -> dict[tuple[str | None, int | None], list[tuple[str | None, int | None]]]:
    return {
        (unit.well, unit.field): [(plan.units[p].well, plan.units[p].field) for p in unit.parents]
        for unit in plan.units
        if unit.stage == stage
    }


# Parents


def test_units_stand_in_plate_order_under_their_numbers() -> None:
    plan = plan_of([NUCLEI, COUNTED, WELLS])
    assert [unit.id for unit in plan.units] == list(range(6))
    assert all(parent < unit.id for unit in plan.units for parent in unit.parents)
    assert plan.units[0].key == f"0_A01_f1_{plan.units[0].fingerprint[:16]}"
    assert plan.units[4].key == f"1_A01_{plan.units[4].fingerprint[:16]}"


def test_a_well_needs_its_fields_and_the_plate_its_wells() -> None:
    plan = plan_of([NUCLEI, COUNTED, WELLS, Step(per_plate, inputs={"objects": "wells"}, outputs=Table("plate"))])
    assert parents(plan, 1) == {("A01", None): [("A01", 1), ("A01", 2)], ("B02", None): [("B02", 1), ("B02", 2)]}
    assert parents(plan, 2) == {(None, None): [("A01", None), ("B02", None)]}


def test_a_field_needs_its_own_images_and_its_well_s_table() -> None:
    use = Step(lambda stack, wells: stack, inputs={"wells": "wells"})
    plan = plan_of([Step(blur), NUCLEI, COUNTED, WELLS, use])
    assert parents(plan, 2)["B02", 1] == [("B02", 1), ("B02", None)]
    assert all(unit.images == () for unit in plan.units if unit.stage == 2)


def test_a_unit_that_reads_names_its_images() -> None:
    plan = plan_of([Step(plain, stack="field")])
    plate = plan.plate
    assert [unit.images for unit in plan.units] == [
        tuple(field.images[0].id for field in well.fields) for well in plate.wells
    ]


def test_every_field_needs_what_a_reducer_found() -> None:
    plan = plan_of(
        [
            Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean")),
            Step(correct, channel="DAPI", inputs={"mean": "mean"}),
        ]
    )
    assert set(map(tuple, parents(plan, 2).values())) == {((None, None),)}
    assert all(unit.images for unit in plan.units if unit.stage == 2)


def test_saving_a_field_needs_the_units_that_made_its_images() -> None:
    use = Step(lambda stack, wells: stack, inputs={"wells": "wells"}, save=True, name="late")
    plan = plan_of([Step(blur, save=True), NUCLEI, COUNTED, WELLS, use], save=True)
    save = plan.stages[-1].index
    assert [plan.units[p].stage for unit in plan.units if unit.stage == save for p in unit.parents] == [0, 2] * 4


# Fingerprints


def base() -> list[Step]:
    return [Step(blur, {"sigma": 2.0}), Step(project, save=True)]


def first(plan: ExecutionPlan) -> str:
    return plan.units[0].fingerprint


def made_of(source: str) -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec(source, space)
    function: Callable[..., Any] = space["f"]
    return function


PLATE = make_plate()
TWO = make_plate(versions={("B02", 1): "2"})


@pytest.mark.parametrize(
    ("steps", "plate", "how"),
    [
        ([Step(blur, {"sigma": 3.0}), Step(project, save=True)], PLATE, {}),
        ([Step(plain), Step(project, save=True)], PLATE, {}),
        ([Step(blur, {"sigma": 2.0}, channel="DAPI"), Step(project, save=True)], PLATE, {}),
        ([Step(blur, {"sigma": 2.0}, stack="t"), Step(project, save=True)], PLATE, {}),
        ([Step(blur, {"sigma": 2.0}, save=True), Step(project, save=True)], PLATE, {}),
        ([Step(blur, {"sigma": 2.0}), Step(project, save=True, name="other")], PLATE, {}),
        (base(), PLATE, {"channels": ("DAPI",)}),
        (base(), make_plate(versions={("A01", 1): "2"}), {}),
        (base(), make_plate(name="other"), {}),
        (base(), make_plate(channels=("GFP", "DAPI")), {}),
        (base(), make_plate(projections=layout()), {"source": "projection"}),
        (base(), make_plate(layouts={("B02", n): layout(z=2) for n in (1, 2)} | {("A01", 2): layout(z=2)}), {}),
    ],
    ids=[
        "parameter",
        "function",
        "step's channels",
        "stack",
        "kept",
        "name of a result",
        "run's channels",
        "image's version",
        "plate",
        "order of channels",
        "kind of source",
        "slices that are taken",
    ],
)
def test_a_result_is_another_when_something_that_matters_changes(
    steps: Sequence[Step], plate: Plate, how: dict[str, Any]
) -> None:
    assert first(plan_of(steps, plate, **how)) != first(plan_of(base(), PLATE))


@pytest.mark.parametrize(
    ("steps", "plate", "how"),
    [
        (base(), TWO, {}),
        (Pipeline(base(), name="other", source="text", source_name="Cell In[9]"), PLATE, {}),
        (base(), PLATE, {"wells": ("A01",), "fields": (1,)}),
        (base(), PLATE, {"workers": 1, "memory_bytes": 10**9, "save": True}),
        (base(), PLATE, {"channels": ("GFP", "DAPI")}),
        (base(), make_plate(positions={("A01", 1): (1.0, 2.0)}, pixel_size_um=0.3), {}),
        (base(), make_plate(layouts={("B02", 1): layout(z=5)}), {}),
    ],
    ids=[
        "another image",
        "name of the run",
        "other wells",
        "workers",
        "all channels named",
        "positions",
        "another's slices",
    ],
)
def test_a_result_is_the_same_when_nothing_that_matters_changes(
    steps: Sequence[Step] | Pipeline, plate: Plate, how: dict[str, Any]
) -> None:
    assert first(plan_of(steps, plate, **how)) == first(plan_of(base(), PLATE))


def test_only_the_images_that_changed_are_computed_anew() -> None:
    steps = [NUCLEI, COUNTED, WELLS]
    before, after = plan_of(steps, PLATE), plan_of(steps, TWO)
    for stage in (0, 1):
        changed = {place for place, one in units(before, stage).items() if units(after, stage)[place] != one}
        assert {well for well, _ in changed} == {"B02"}


def test_a_function_s_body_matters_and_its_comments_do_not() -> None:
    one, same, other = (
        made_of("def f(stack):\n    return stack + 1\n"),
        made_of("def f(stack):\n    '''Add.'''\n    # one\n\n    return stack + 1\n"),
        made_of("def f(stack):\n    return stack + 2\n"),
    )
    fingerprints = [first(plan_of([Step(function)])) for function in (one, same, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_an_earlier_stage_is_the_same_with_later_steps() -> None:
    steps = [NUCLEI, COUNTED]
    alone = plan_of(steps)
    assert units(plan_of([*steps, WELLS])) == units(alone)
    reduced = [Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean"))]
    later = Step(correct, channel="GFP", inputs={"mean": "mean"}, save=True)
    assert units(plan_of([*reduced, later])) == units(plan_of(reduced))


def test_a_stage_that_must_leave_its_images_is_another() -> None:
    steps = [Step(blur), NUCLEI, COUNTED]
    use = Step(lambda stack, wells: stack, inputs={"wells": "wells"})
    carried = plan_of([*steps, WELLS, use])
    assert carried.stages[0].carries
    assert first(carried) != first(plan_of([*steps, WELLS]))


def test_a_reducer_s_state_is_kept_under_its_step_s_number() -> None:
    mean = Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean"))
    counted = Step(count, channel="DAPI", outputs=Table("counts"))
    # The table step belongs to a later stage: the first stage does the same under another number.
    assert first(plan_of([counted, mean])) != first(plan_of([counted, WELLS, mean]))


def test_a_parent_s_code_matters() -> None:
    changed = [Step(segment, {"size": 20}, channel="DAPI", outputs=Labels("nuclei")), COUNTED, WELLS]
    one, other = (units(plan_of(steps), 1) for steps in ([NUCLEI, COUNTED, WELLS], changed))
    assert not set(one.values()) & set(other.values())


def test_positions_and_pixel_sizes_matter_to_functions_that_are_told_them() -> None:
    steps = [Step(locate, channel="DAPI", outputs=Table("places"))]
    plates = [
        PLATE,
        make_plate(positions={("A01", 1): (1.0, 2.0)}),
        make_plate(pixel_size_um=0.3),
    ]
    assert len({first(plan_of(steps, plate)) for plate in plates}) == 3
    assert units(plan_of(steps, plates[0]))["B02", 1] == units(plan_of(steps, plates[1]))["B02", 1]


def test_joining_channels_under_another_name_matters_where_the_name_shows() -> None:
    steps = [[Step(mix, name=name), Step(count, outputs=Table("t"))] for name in ("a", "b")]
    assert len({first(plan_of(one)) for one in steps}) == 2


def test_no_two_units_of_a_plan_are_the_same() -> None:
    use = Step(lambda stack, wells: stack, inputs={"wells": "wells"}, save=True)
    mean = Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean"))
    wells = [f"A{column:02d}" for column in range(1, 13)]
    plan = plan_of([Step(blur), NUCLEI, COUNTED, mean, WELLS, use], make_plate(wells, 3), save=True)
    assert len({unit.fingerprint for unit in plan.units}) == len(plan.units)
