"""What a run takes of a plate: wells, fields, channels, and the planes that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.functions import composite, max_projection
from openhcs_jupyter.model import Plate
from openhcs_jupyter.pipeline import Step
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.compiler.functions import blur
from tests.compiler.plates import layout, make_plate, plan_of, problem_of, problems_of

ALL = [Step(blur)]


def taken(plan: ExecutionPlan) -> list[tuple[str | None, int | None]]:
    return [(unit.well, unit.field) for unit in plan.units if unit.stage == 0]


def told(plan: ExecutionPlan) -> list[str]:
    return [f"{left.what}: {left.why}" for left in plan.left_out]


def test_all_of_a_plate_is_taken_in_plate_order() -> None:
    plan = plan_of(ALL)
    assert taken(plan) == [("A01", 1), ("A01", 2), ("B02", 1), ("B02", 2)]
    assert [(c.channel.name, c.index, c.slices) for c in plan.channels] == [
        ("DAPI", 0, (0, 1, 2)),
        ("GFP", 1, (0, 1, 2)),
    ]
    assert plan.left_out == ()


def test_wells_may_be_named_loosely_and_come_in_plate_order() -> None:
    assert taken(plan_of(ALL, wells=("b2", "A01", "a1"), fields=(2,))) == [("A01", 2), ("B02", 2)]


def test_a_well_that_is_not_there() -> None:
    message = problem_of(ALL, wells=("A01", "B03"))
    assert "'plate' has no images in well B03" in message
    assert "Did you mean 'B02'?" in message


def test_a_text_that_names_no_well() -> None:
    assert "'well 3' is not a well name" in problem_of(ALL, wells=("well 3",))


def test_a_field_that_is_not_there() -> None:
    message = problem_of(ALL, make_plate(fields=4), fields=(2, 7))
    assert "no chosen well has a field 7" in message
    assert "There are fields 1 to 4." in message


def test_a_field_that_only_some_wells_have_is_told() -> None:
    one, two = make_plate(("A01",), fields=3), make_plate(("B02",), fields=2)
    plate = Plate(
        id=1, name="plate", repository="memory", rows=8, columns=12, channels=one.channels, wells=one.wells + two.wells
    )
    plan = plan_of(ALL, plate, fields=(2, 3))
    assert taken(plan) == [("A01", 2), ("A01", 3), ("B02", 2)]
    assert told(plan) == ["B02 field 3: the well has no such field"]


def test_a_channel_that_is_not_there() -> None:
    message = problem_of(ALL, channels=("DAPI", "gfp"))
    assert "'plate' has no channel 'gfp'" in message
    assert "Did you mean 'GFP'? There are: DAPI, GFP." in message


@pytest.mark.parametrize("nothing", ["wells", "fields", "channels"])
def test_a_selection_of_nothing(nothing: str) -> None:
    assert f"the selection names no {nothing[:-1]}" in problem_of(ALL, **{nothing: ()})


def test_a_plate_without_images() -> None:
    assert problem_of(ALL, make_plate(wells=())) == "plate 'plate' has no images"


def test_a_plate_without_the_kind_of_image_that_is_asked_for() -> None:
    message = problem_of(ALL, source="projection")
    assert message == "no chosen field has a projection image | Take the other with --source stack."


def test_a_channel_that_the_selection_leaves_out_cannot_be_taken_by_a_step() -> None:
    message = problem_of([Step(blur, channel="GFP")], channels=("DAPI",))
    assert "channel 'GFP' is not in this run: --channels does not name it" in message
    assert "--channels DAPI,GFP" in message


def test_one_missing_plane_names_well_field_channel_and_slice() -> None:
    plate = make_plate(layouts={("B02", 1): layout(missing=[(0, 1, 2)])})
    message = problem_of(ALL, plate)
    assert message.startswith("B02 field 1: channel 'GFP' has no plane at slice 3 |")
    assert "--skip-missing" in message


def test_a_missing_time_point_is_named() -> None:
    plate = make_plate(t=2, layouts={("B02", 1): layout(t=2, missing=[(1, 0, 0), (1, 0, 1)])})
    assert "channel 'DAPI' has no plane at slice 1, time point 2; 1 more is missing" in problem_of(ALL, plate)


def test_a_field_with_fewer_time_points() -> None:
    plate = make_plate(t=3, layouts={("A01", 1): layout(t=2)})
    assert "A01 field 1: it has 2 time points where others have 3" in problem_of(ALL, plate)


def test_fields_that_lack_a_plane_are_left_out_when_asked() -> None:
    plate = make_plate(layouts={("B02", 1): layout(missing=[(0, 1, 2)])})
    plan = plan_of(ALL, plate, skip_missing=True)
    assert taken(plan) == [("A01", 1), ("A01", 2), ("B02", 2)]
    assert told(plan) == ["B02 field 1: channel 'GFP' has no plane at slice 3"]


def test_of_two_fields_the_one_that_lacks_a_plane_is_at_fault() -> None:
    plate = make_plate(("A01",), layouts={("A01", 1): layout(missing=[(0, 1, 2)])})
    assert problem_of(ALL, plate).startswith("A01 field 1: channel 'GFP'")


def test_a_plane_that_no_step_needs_may_be_missing() -> None:
    plate = make_plate(layouts={("B02", 1): layout(missing=[(0, 1, 2)])})
    plan = plan_of([Step(blur, channel="DAPI")], plate)
    assert len(taken(plan)) == 4
    assert [c.channel.name for c in plan.channels] == ["DAPI"]
    assert plan.steps[0].channels_after == ("DAPI",)


def test_a_channel_that_was_asked_for_and_that_no_step_takes_is_told() -> None:
    plan = plan_of([Step(blur, channel="DAPI")], channels=("DAPI", "GFP"))
    assert told(plan) == ["channel GFP: no step takes it"]


def test_many_fields_that_lack_the_same_are_one_problem() -> None:
    short = layout(missing=[(0, 0, 0)])
    wells = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
    plate = make_plate(wells, 9, layouts={(well, n): short for well in wells for n in range(1, 5)})
    message = problem_of(ALL, plate)
    assert message.startswith("A01 field 1, A01 field 2, A01 field 3 and 381 more fields: channel 'DAPI'")


def test_fields_that_all_lack_something_leave_nothing_to_run() -> None:
    plate = make_plate(
        ("A01",), 2, layouts={("A01", 1): layout(missing=[(0, 0, 0)]), ("A01", 2): layout(missing=[(0, 1, 0)])}
    )
    assert "every chosen field lacks a plane" in problem_of(ALL, plate, skip_missing=True)


def test_planes_beyond_what_most_fields_have_are_not_taken_and_told() -> None:
    plate = make_plate(layouts={("A01", 2): layout(z=5)})
    plan = plan_of([Step(blur, channel="DAPI")], plate)
    assert plan.channels[0].slices == (0, 1, 2)
    assert told(plan) == ["A01 field 2, channel DAPI slices 4, 5: most fields do not have them"]


def test_slices_that_are_not_there_at_every_time_point_are_not_taken_and_told() -> None:
    sometimes = [(t, 1, z) for t in (1, 2) for z in (1, 2)]
    plan = plan_of(ALL, make_plate(t=3, missing=sometimes))
    assert {c.channel.name: c.slices for c in plan.channels} == {"DAPI": (0, 1, 2), "GFP": (0,)}
    assert told(plan) == ["channel GFP slices 2, 3: they are not there at every time point"]


def test_a_channel_that_few_fields_have_is_left_out_unless_it_is_named() -> None:
    without = layout(missing=[(0, 1, z) for z in range(3)])
    plate = make_plate(layouts={("A01", 1): without, ("A01", 2): without, ("B02", 1): without})
    plan = plan_of(ALL, plate)
    assert told(plan) == ["channel GFP: most fields have no plane of it"]
    assert "--channels GFP --skip-missing" in problem_of([Step(blur, channel="GFP")], plate)
    assert taken(plan_of(ALL, plate, channels=("GFP",), skip_missing=True)) == [("B02", 2)]
    assert problem_of(ALL, plate, channels=("GFP",)).startswith("A01 field 1, A01 field 2, B02 field 1: channel 'GFP'")


def test_problems_of_selection_and_of_steps_are_told_together() -> None:
    plate = make_plate(layouts={("B02", 1): layout(missing=[(0, 1, 2)])})
    messages = [
        p.message for p in problems_of([Step(blur, {"sgima": 1})], plate, wells=("B02", "C09"), fields=(1, 2, 9))
    ]
    assert len(messages) == 4
    for text in ("well C09", "field 9", "B02 field 1: channel", "no parameter 'sgima'"):
        assert any(text in message for message in messages)


@pytest.fixture
def irregular(repository: EmbeddedRepository, real_plates: Path) -> Plate:
    """Return a real acquisition: two channels with ten slices, one with a projection only, one with a single slice."""
    return repository.plate(repository.import_plate(real_plates / "imagexpress").id)


def test_a_channel_of_a_real_plate_that_has_only_projections_is_left_out_and_told(irregular: Plate) -> None:
    plan = plan_of(ALL, irregular)
    w1, w2, w3, w4 = (channel.name for channel in irregular.channels)
    assert {c.channel.name: len(c.slices) for c in plan.channels} == {w1: 10, w2: 10, w4: 1}
    assert told(plan) == [f"channel {w3}: it has no plane in the stack images"]


def test_a_step_that_names_the_channel_without_a_stack_is_told_where_it_is(irregular: Plate) -> None:
    name = irregular.channels[2].name
    message = problem_of([Step(blur, channel=name)], irregular)
    assert f"channel {name!r} is not in this run: it has no plane in the stack images" in message
    assert "--source projection" in message
    assert "--source projection" in problem_of(ALL, irregular, channels=(name,))
    assert [c.channel.name for c in plan_of([Step(blur, channel=name)], irregular, source="projection").channels] == [
        name
    ]


def test_channels_of_different_depth_go_together_once_they_are_projected(irregular: Plate) -> None:
    w1, _, _, w4 = (channel.name for channel in irregular.channels)
    message = problem_of([Step(composite, channel=[w1, w4])], irregular)
    assert f"channel {w4!r} has no plane at slice 2" in message
    assert "Project along z first" in message
    both = [Step(max_projection, channel=[w1, w4]), Step(composite, channel=[w1, w4])]
    assert plan_of(both, irregular).steps[1].channels_after == ("composite",)
    one = [Step(max_projection, channel=w1), Step(composite, channel=[w1, w4])]
    assert len(plan_of(one, irregular).steps) == 2
