"""A run keeps within the machine, or is refused before it begins."""

from __future__ import annotations

import time

from openhcs_jupyter.pipeline import Labels, Step, Table
from tests.compiler.functions import blur, count, mix, per_well, project, segment
from tests.compiler.plates import GB, machine, make_plate, plan_of, problem_of, problems_of

PLANE = 100 * 200 * 2


def test_a_worker_for_each_core_but_not_more_than_units() -> None:
    assert plan_of([Step(blur)], topology=machine(cores=3)).memory.workers == 3
    assert plan_of([Step(blur)], topology=machine(cores=64)).memory.workers == 4
    assert plan_of([Step(blur)], topology=machine(cores=64), workers=2).memory.workers == 2


def test_a_unit_reads_the_planes_of_the_channels_that_its_steps_take() -> None:
    assert {unit.read_bytes for unit in plan_of([Step(blur)]).units} == {6 * PLANE}
    assert {unit.read_bytes for unit in plan_of([Step(blur, channel="GFP")]).units} == {3 * PLANE}
    assert {unit.read_bytes for unit in plan_of([Step(blur)], make_plate(t=4)).units} == {24 * PLANE}
    assert {unit.read_bytes for unit in plan_of([Step(blur, stack="field")], make_plate(fields=5)).units} == {
        30 * PLANE
    }


def test_a_unit_s_peak_is_what_it_holds_and_what_its_largest_call_takes() -> None:
    # blur says need=2.0 of a stack of three planes.
    assert plan_of([Step(blur)]).memory.unit_peak_bytes == 2 * 6 * PLANE + 2 * 3 * PLANE
    assert plan_of([Step(project), Step(blur)]).memory.unit_peak_bytes == 2 * 6 * PLANE + 3 * PLANE


def test_a_well_that_goes_on_with_projections_holds_those_of_all_its_fields() -> None:
    plan = plan_of([Step(project), Step(blur, stack="field")], make_plate(fields=9))
    assert [unit.read_bytes for unit in plan.units if unit.stage == 1] == [2 * 9 * PLANE] * 2


def test_units_of_tables_hold_no_images() -> None:
    steps = [
        Step(count, channel="DAPI", outputs=Table("t")),
        Step(per_well, inputs={"objects": "t"}, outputs=Table("w")),
    ]
    assert {unit.peak_bytes for unit in plan_of(steps).units if unit.stage == 1} == {0}


def test_workers_are_fewer_where_memory_is_short() -> None:
    one = plan_of([Step(blur)], workers=1)
    each = one.memory.in_flight_bytes
    assert each == one.memory.unit_peak_bytes + 6 * PLANE
    memory = plan_of([Step(blur)], workers=4, memory_bytes=2 * each + 1).memory
    assert (memory.workers, memory.in_flight_bytes) == (2, 2 * each)
    free = plan_of([Step(blur)], topology=machine(free=int(2.5 * each)), workers=4).memory
    assert (free.limit_bytes, free.workers) == (2 * each, 2)


def test_a_unit_that_does_not_fit_is_named_with_the_step_that_takes_most() -> None:
    large = make_plate(size_y=20_000, size_x=20_000)
    steps = [Step(blur, channel="DAPI"), Step(segment, channel="DAPI", outputs=Labels("nuclei")), Step(blur, name="b")]
    (problem,) = problems_of(steps, large, topology=machine(free=5 * GB))
    assert problem.message.startswith("the unit A01 field 1 needs 24.0 GB")
    assert problem.message.endswith("the run may use 4.0 GB")
    assert problem.step == "segment"
    assert "memory_gb" in (problem.hint or "")


def test_a_well_that_does_not_fit_is_named() -> None:
    message = problem_of([Step(blur, stack="field")], memory_bytes=100_000)
    assert message.startswith("the unit A01 needs 1.6 MB")


def test_a_full_plate_is_compiled_quickly() -> None:
    wells = [f"{row}{column:02d}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]
    plate = make_plate(wells, 9, ("C1", "C2", "C3", "C4"), 5)
    steps = [
        Step(project, save=True),
        Step({"C1": [blur, blur], "C2": blur}),
        Step(segment, channel="C1", outputs=Labels("nuclei")),
        Step(count, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
        Step(per_well, inputs={"objects": "nuclei"}, outputs=Table("wells")),
        Step(mix),
    ]
    plan_of(steps, make_plate(channels=("C1", "C2")))
    begin = time.process_time()
    plan = plan_of(steps, plate)
    assert time.process_time() - begin < 0.5
    assert len(plan.units) == 384 * 10
