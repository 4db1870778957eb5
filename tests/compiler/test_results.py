"""What a run keeps: what the user names, or else the last image; and what labels lie over."""

from __future__ import annotations

from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.pipeline import ImageOutput, Labels, Points, Step, Table, image
from tests.compiler.functions import MeanImage, blur, count, mix, per_plate, plain, project, segment
from tests.compiler.plates import make_plate, plan_of, problem_of, problems_of

NUCLEI = Step(segment, channel="DAPI", outputs=Labels("nuclei"))


def kept(plan: ExecutionPlan) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(r.kind, r.name, r.scope, r.channels) for r in plan.results]


def over(*steps: Step) -> str | None:
    plan = plan_of(steps, make_plate(t=2))
    return next(r.over for r in plan.results if r.kind in ("labels", "points"))


def test_a_pipeline_that_names_nothing_keeps_its_last_image() -> None:
    assert kept(plan_of([Step(blur), Step(project)])) == [("image", "project", "field", ("DAPI", "GFP"))]


def test_saved_images_hold_the_channels_that_their_step_takes() -> None:
    plan = plan_of([Step(blur, channel="GFP", save=True), Step(mix, name="both", save=True)])
    assert kept(plan) == [("image", "blur", "field", ("GFP",)), ("image", "both", "field", ("both",))]


def test_tables_alone_keep_no_image() -> None:
    assert kept(plan_of([Step(blur), Step(count, channel="DAPI", outputs=Table("t"))])) == [("table", "t", "field", ())]
    assert kept(plan_of([Step(count, outputs=Table("t"))])) == [("table", "t", "field", ("DAPI", "GFP"))]


def test_results_have_the_scope_of_what_makes_them() -> None:
    plan = plan_of(
        [
            Step(plain, stack="field", save=True),
            Step(segment, channel="DAPI", stack="field", outputs=Table("rows")),
            Step(per_plate, inputs={"objects": "rows"}, outputs=Table("plate")),
            Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean")),
            Step(project, stack="field", save=True),
        ]
    )
    assert [(r.name, r.scope) for r in plan.results] == [
        # Fields that were taken together are images of their own as long as nothing joins them.
        ("plain", "field"),
        ("rows", "well"),
        ("plate", "plate"),
        ("mean", "plate"),
        ("project", "well"),
    ]


def test_labels_lie_over_the_latest_kept_image_of_their_channel() -> None:
    assert over(Step(blur, save=True), Step(plain, channel="GFP", save=True), NUCLEI) == "blur"
    assert over(Step(blur, save=True), Step(plain, save=True), Step(blur, name="last"), NUCLEI) == "plain"


def test_labels_without_a_kept_image_keep_their_own() -> None:
    plan = plan_of([Step(blur), NUCLEI])
    assert kept(plan) == [("image", "segment", "field", ("DAPI",)), ("labels", "nuclei", "field", ("DAPI",))]
    assert plan.results[1].over == "segment"
    assert plan.steps[1].keep_as == plan.steps[1].name
    assert over(Step(segment, channel="DAPI", outputs=Points("spots"))) == "segment"


def test_labels_do_not_lie_over_images_of_other_planes() -> None:
    assert over(Step(blur, save=True), Step(project), NUCLEI) == "segment"
    assert over(Step(blur, save=True), Step(project, stack="t"), NUCLEI) == "segment"
    assert over(Step(blur, save=True), Step(plain), NUCLEI) == "segment"
    assert over(Step(project, save=True), Step(blur), NUCLEI) == "project"
    assert over(Step(project, save=True), Step(project, name="again"), NUCLEI) == "project"


def test_labels_that_are_made_while_channels_are_joined_lie_over_the_joined_image() -> None:
    joined = image(stack="channel", depth="one")(lambda stack: (stack[:1], stack[:1] > 0))
    assert over(Step(joined, name="joined", outputs=Labels("cells"))) == "joined"


def test_labels_of_fields_taken_together_lie_over_no_image_of_a_field() -> None:
    assert over(Step(segment, channel="DAPI", stack="field", outputs=Labels("nuclei"))) is None
    assert over(Step(project, stack="field"), NUCLEI) == "segment"


def test_an_image_output_of_channels_together_is_one_channel() -> None:
    plan = plan_of([Step(lambda stack: (stack, stack[:1]), stack="channel", outputs=ImageOutput("ratio"))])
    assert kept(plan) == [("image", "ratio", "field", ("ratio",))]


def test_two_results_of_one_name() -> None:
    twice = [Step(blur, save=True), Step(blur, save=True)]
    assert problem_of(twice) == (
        "two results would be named 'blur' | Give the step a name=, or the output a name, of its own."
    )
    assert problems_of(twice)[0].line == twice[1].line
    assert "named 'nuclei'" in problem_of([Step(blur, name="nuclei", save=True), NUCLEI])
    table = Step(count, channel="DAPI", outputs=Table("t"))
    points = Step(count, channel="DAPI", outputs=Points("t"))
    assert "named 't'" in problem_of([table, points])
    assert plan_of([Step(blur, name="nuclei", save=True), Step(count, channel="DAPI", outputs=Table("nuclei"))])


def test_names_are_checked_with_everything_else() -> None:
    messages = [p.message for p in problems_of([Step(blur, save=True), Step(blur, save=True), Step(plain, {"x": 1})])]
    assert len(messages) == 2


def test_images_of_fields_of_joined_wells_and_of_the_plate_are_saved_together() -> None:
    steps = [
        Step(blur, save=True),
        Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean")),
        Step(project, stack="field", save=True),
    ]
    plan = plan_of(steps, save=True)
    assert [(stage.scope, stage.units) for stage in plan.stages if stage.kind == "save"] == [
        ("field", sum(1 for _ in plan.plate.fields())),
        ("well", len(plan.plate.wells)),
        ("plate", 1),
    ]
    assert plan.left_out == ()
