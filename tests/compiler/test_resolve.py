"""What is wrong with a step is found before a pixel is read, all at once, each with its line."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.errors import CompileError, UsageError
from openhcs_jupyter.functions import (
    composite,
    gaussian_blur,
    max_projection,
    measure_objects,
    percentile_normalize,
    segment_nuclei,
    top_hat,
    well_medians,
)
from openhcs_jupyter.pipeline import ImageOutput, Labels, Points, Step, Table, image
from tests.compiler.functions import (
    MeanImage,
    blur,
    correct,
    count,
    mix,
    per_plate,
    per_well,
    plain,
    plain_table,
    project,
    segment,
)
from tests.compiler.plates import layout, make_plate, plan_of, problem_of, problems_of

THREE = make_plate(channels=("DAPI", "GFP", "Cy5"))
NUCLEI = Step(segment, channel="DAPI", outputs=Labels("nuclei"))


def test_the_pipeline_of_the_documentation_compiles() -> None:
    plan = plan_of(
        [
            Step(percentile_normalize, {"low": 1, "high": 99.8}),
            Step(max_projection, save=True),
            Step({"DAPI": [gaussian_blur, (top_hat, {"radius": 15})], "GFP": gaussian_blur}),
            Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
            Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
            Step(well_medians, inputs={"objects": "nuclei"}, outputs=Table("wells")),
        ],
        save=True,
    )
    assert [(stage.kind, stage.scope, stage.steps) for stage in plan.stages] == [
        ("compute", "field", (0, 1, 2, 3, 4)),
        ("compute", "well", (5,)),
        ("save", "field", (1, 3)),
    ]
    assert [(r.kind, r.name, r.scope, r.over) for r in plan.results] == [
        ("image", "max_projection", "field", None),
        ("labels", "nuclei", "field", "max_projection"),
        ("table", "nuclei", "field", None),
        ("table", "wells", "well", None),
    ]
    assert plan.steps[4].inputs[0].kind == "labels"
    assert plan.steps[5].inputs[0].kind == "table"


# Steps as such


def test_an_empty_pipeline() -> None:
    assert "the pipeline has no steps" in problem_of([])


def test_what_is_not_a_step() -> None:
    assert problem_of([blur]).startswith("pipeline_steps[0] is <function blur")


def test_problems_are_told_at_once_with_their_lines_in_order() -> None:
    here = inspect.currentframe()
    assert here is not None
    first = here.f_lineno + 2
    steps = [
        Step(blur, {"sgima": 1}),
        Step(
            blur,
            channel="Dapi",
        ),
        Step(count, inputs={"labels": "cells"}, outputs=Table("cells")),
        *(Step(blur, stack=name) for name in ("zed",)),
    ]
    problems = problems_of(steps[::-1])
    assert [p.line for p in problems] == [first, first + 1, first + 5, first + 6]
    assert [p.step for p in problems] == ["blur", "blur", "count", "blur"]
    assert "Did you mean 'sigma'?" in (problems[0].hint or "")
    assert "Did you mean 'DAPI'?" in (problems[1].hint or "")


def test_the_error_says_every_problem() -> None:
    with pytest.raises(
        CompileError, match=r"(?s)2 problems in <pipeline>.*line \d+: blur: .*sgima.*line \d+: blur:.*zed"
    ):
        plan_of([Step(blur, {"sgima": 1}), Step(blur, stack="zed")])  # type: ignore[arg-type]  # wrong on purpose


def test_the_line_of_a_step_is_that_of_its_call_also_in_a_helper() -> None:
    def helper(function: Any) -> Step:
        return Step(
            function,
            {},
        )

    start = inspect.getsourcelines(helper)[1]
    assert helper(blur).line == start + 1


@pytest.mark.parametrize("name", ["a/b", "a\nb", ""])
def test_a_name_that_files_cannot_have(name: str) -> None:
    step = Step(blur, name=name)
    if name:
        assert f"{name!r} cannot name a step" in problem_of([step])
    else:
        assert step.name == "blur"


@pytest.mark.parametrize("given", ["params", "inputs"])
def test_what_should_be_a_dict_and_is_not(given: str) -> None:
    with pytest.raises(UsageError, match=f"{given}= of a Step is 'nuclei', not a dict"):
        Step(blur, **{given: "nuclei"})


# Functions, chains, dicts


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step([blur, plain], {"sigma": 1}), "params stand beside a chain"),
        (Step({"DAPI": blur}, {"sigma": 1}), "params stand beside a dict"),
        (Step([]), "its chain of functions is empty"),
        (Step({}), "its dict of functions is empty"),
        (Step("blur"), "'blur' cannot be called"),  # type: ignore[arg-type]  # wrong on purpose
        (Step((blur, 3)), "is not (function, params)"),  # type: ignore[arg-type]  # wrong on purpose
        (Step({"*": blur}), "'*' is not a channel"),
        (Step({"DAPI": blur}, channel="DAPI"), "channel= stands beside a dict by channel"),
        (Step({"DAPI": mix}), "a dict by channel cannot take its channels together"),
        (Step([mix, image(stack="field")(lambda stack: stack)]), "want stacks along channel and field"),
        (Step(blur, channel=[]), "channel= names no channel"),
        (Step(blur, channel=5), "there is no channel 5 at this step"),  # type: ignore[arg-type]  # wrong on purpose
        (Step(blur, stack="zed"), "there is no stack along 'zed'"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_what_a_step_cannot_take(step: Step, message: str) -> None:
    assert message in problem_of([step])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(blur, {"sigma": 1, "radius": 2}), "blur: has no parameter 'radius' | There are: sigma."),
        (Step(blur, {"stack": 1}), "multiple values for argument 'stack'"),
        (Step(correct, outputs=()), "missing a required argument: 'mean'"),
        (Step(lambda: None), "too many positional arguments"),
        (Step({"GFP": [(blur, {"sigm": 1})]}), "Did you mean 'sigma'?"),
        (Step(lambda stack, context: stack, {"context": 1}), "is given context as a parameter and by the step"),
    ],
)
def test_parameters_that_do_not_fit(step: Step, message: str) -> None:
    assert message in problem_of([step])


def test_a_function_with_some_parameters_set_is_what_it_was() -> None:
    (step,) = plan_of([Step(functools.partial(composite, weights=(1, 2)))]).steps
    assert (step.name, step.stack, step.channels_after) == ("composite", "channel", ("composite",))
    assert step.chains["*"][0].kind == "image"


def test_a_function_of_others_that_cannot_be_declared() -> None:
    with pytest.raises(UsageError, match="cannot be declared"):
        image(depth="one")(len)


def test_any_keyword_fits_a_function_that_takes_any() -> None:
    assert plan_of([Step(lambda stack, **more: stack, {"anything": 1})]).steps[0].kind == "pixels"


def test_functions_that_tell_no_signature_are_taken_as_they_are() -> None:
    assert plan_of([Step(np.sqrt)]).steps[0].chains["*"][0].name == "sqrt"


def test_a_parameter_whose_identity_cannot_be_told() -> None:
    (problem,) = problems_of([Step(blur, {"sigma": threading.Lock()})])
    assert problem.line
    assert "sigma" in problem.message


# Channels


def test_channels_that_a_dict_does_not_name_pass_through() -> None:
    plan = plan_of([Step({"GFP": blur}), Step(project)], THREE)
    assert plan.steps[0].channels == ("GFP",)
    assert plan.steps[0].channels_after == ("DAPI", "GFP", "Cy5")


def test_joined_channels_are_one_channel_of_the_step_s_name() -> None:
    plan = plan_of([Step(mix, channel=["Cy5", "DAPI"], name="both"), Step(blur, channel="both"), Step(plain)], THREE)
    assert plan.steps[0].channels == ("DAPI", "Cy5")
    assert [step.channels_after for step in plan.steps] == [("GFP", "both")] * 3


def test_a_channel_that_was_joined_is_not_there_any_more() -> None:
    message = problem_of([Step(mix, channel=["DAPI", "GFP"]), Step(blur, channel="DAPI"), Step(blur)], THREE)
    assert message == "blur: there is no channel 'DAPI' at this step | There are: Cy5, mix."


def test_a_second_channel_of_the_same_name() -> None:
    steps = [Step(mix, channel=["DAPI", "GFP"], name="Cy5"), Step(blur, channel="Cy5")]
    assert "would be a second channel 'Cy5'" in problem_of(steps, THREE)


def test_an_undecorated_function_along_channels_keeps_them() -> None:
    assert plan_of([Step(plain, stack="channel")]).steps[0].channels_after == ("DAPI", "GFP")


def test_channels_of_different_slices_cannot_be_taken_together() -> None:
    plate = make_plate(missing=[(0, 1, 1), (0, 1, 2)])
    message = problem_of([Step(mix)], plate)
    assert message.startswith(
        "mix: takes channels together, but channel 'GFP' has no plane at slice 2 | Project along z"
    )
    assert plan_of([Step(project), Step(mix)], plate).steps


def test_single_planes_at_different_slices_go_together() -> None:
    plate = make_plate(missing=[(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2)])
    assert plan_of([Step(mix)], plate).steps[0].channels == ("DAPI", "GFP")


# Fields and time points


def test_fields_are_joined_once() -> None:
    steps = [Step(project, stack="field"), Step(blur, stack="field")]
    assert "there is no stack along fields" in problem_of(steps)


@pytest.mark.parametrize(("stack", "what"), [("field", "fields"), ("t", "time points")])
def test_joining_takes_all_channels_that_the_pipeline_takes(stack: Any, what: str) -> None:
    plate = make_plate(t=2)
    message = problem_of([Step(project, stack=stack, channel="DAPI"), Step(blur)], plate)
    assert f"{what} can only be joined in all channels at once, and it does not take GFP" in message
    assert "join" in problem_of([Step({"DAPI": project, "GFP": blur}, stack=stack)], plate)
    assert plan_of([Step(project, stack=stack, channel="DAPI"), Step(blur, channel="DAPI")], plate).steps


def test_a_single_time_point_is_not_joined() -> None:
    assert plan_of([Step(project, stack="t", channel="DAPI"), Step(blur)]).steps


# Outputs and inputs


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(segment, outputs="nuclei"), "'nuclei' is not an output"),  # type: ignore[arg-type]  # wrong on purpose
        (Step(segment, outputs=Labels), "is not an output"),  # type: ignore[arg-type]  # wrong on purpose
        (Step(segment, outputs=Labels(5)), "Labels(name=5) is not an output"),  # type: ignore[arg-type]  # wrong on purpose
        (Step(segment, outputs=Labels("my nuclei")), "'my nuclei' cannot name an output"),
        (Step(segment, outputs=[Labels("a"), Labels("a")]), "there are two outputs labels 'a'"),
    ],
)
def test_outputs_that_cannot_be(step: Step, message: str) -> None:
    assert any(message in f"{problem.message} {problem.hint}" for problem in problems_of([step]))


def test_an_output_that_two_steps_make() -> None:
    assert "there are two outputs labels 'nuclei'" in problem_of([NUCLEI, Step(segment, outputs=Labels("nuclei"))])


def test_labels_and_a_table_may_share_a_name() -> None:
    steps = [NUCLEI, Step(count, inputs={"labels": "nuclei"}, outputs=Table("nuclei"))]
    plan = plan_of([*steps, Step(per_well, inputs={"objects": "nuclei"}, outputs=Table("wells"))])
    assert [step.inputs[0].kind for step in plan.steps[1:]] == ["labels", "table"]


def test_an_input_that_nobody_makes() -> None:
    message = problem_of([NUCLEI, Step(count, inputs={"labels": "nucelei"}, outputs=Table("t"))])
    assert message == "count: no step makes its input 'nucelei' | Did you mean 'nuclei'? There are: nuclei."


def test_an_input_that_is_made_later_or_by_the_step_itself() -> None:
    measured = Step(count, inputs={"labels": "nuclei"}, outputs=Table("t"))
    assert "is made later, by step 2" in problem_of([measured, NUCLEI])
    itself = Step(lambda stack, labels: stack, inputs={"labels": "own"}, outputs=Labels("own"))
    assert "is made by this step itself" in problem_of([itself])


def test_an_input_of_a_step_that_is_itself_at_fault_is_not_a_second_problem() -> None:
    broken = Step(segment, {"sise": 3}, outputs=Labels("nuclei"))
    unreadable = Step([], outputs=Labels("cells"))
    steps = [
        Step(count, inputs={"labels": "nuclei"}, outputs=Table("a")),
        Step(count, inputs={"labels": "cells"}, outputs=Table("b")),
    ]
    assert len(problems_of([broken, unreadable, *steps])) == 2


def test_an_input_that_is_not_named_by_text() -> None:
    step = Step(count, inputs={"labels": Labels("nuclei")}, outputs=Table("t"))  # type: ignore[dict-item]  # wrong on purpose
    assert "does not name an output" in problem_of([NUCLEI, step])


def test_an_input_that_no_function_takes() -> None:
    message = problem_of([NUCLEI, Step(blur, inputs={"labels": "nuclei"})])
    assert "none of its functions takes an input 'labels'" in message


def test_an_input_that_is_a_parameter_too() -> None:
    step = Step(count, {"labels": None}, inputs={"labels": "nuclei"}, outputs=Table("t"))
    assert "count is given labels as a parameter and by the step" in problem_of([NUCLEI, step])


def test_outputs_are_made_for_each_channel_that_a_step_takes() -> None:
    plan = plan_of([Step(segment, channel=["DAPI", "GFP"], outputs=Labels("both")), NUCLEI], THREE)
    assert plan.steps[0].outputs[0].by_channel
    assert not plan.steps[1].outputs[0].by_channel


def test_an_output_by_channel_is_not_there_for_other_channels_or_for_channels_together() -> None:
    both = Step(segment, channel=["DAPI", "GFP"], outputs=Labels("both"))
    use = {"inputs": {"labels": "both"}, "outputs": Table("t")}
    assert "'both' is not made for channel Cy5" in problem_of([both, Step(count, **use)], THREE)
    assert "'both' is made for each of DAPI, GFP" in problem_of([both, Step(count, stack="channel", **use)], THREE)
    assert plan_of([both, Step(count, channel="GFP", **use)], THREE).steps[1].inputs[0].by_channel


def test_labels_of_fields_and_of_wells_do_not_fit_each_other() -> None:
    together = Step(count, stack="field", inputs={"labels": "nuclei"}, outputs=Table("t"))
    assert "is made in each field, and this step takes the fields of a well together" in problem_of([NUCLEI, together])
    of_well = Step(segment, channel="DAPI", stack="field", outputs=Labels("well"))
    each = Step(count, inputs={"labels": "well"}, outputs=Table("t"))
    assert "is made of the fields of a well together, and this step takes each by itself" in problem_of([of_well, each])
    joined = [Step(project, stack="field"), Step(segment, channel="DAPI", outputs=Labels("well")), each]
    assert plan_of(joined).steps[2].scope == "well"


def test_tables_of_fields_reach_a_step_that_takes_fields_together() -> None:
    counted = Step(count, outputs=Table("counts"), channel="DAPI")
    together = Step(lambda stack, counts: stack, stack="field", inputs={"counts": "counts"})
    assert plan_of([counted, together]).steps[1].scope == "well"


# Tables


def test_table_functions_reach_over_what_they_declare_or_the_plate() -> None:
    counted = Step(count, channel="DAPI", outputs=Table("counts"))

    def scope(function: Any) -> str:
        return plan_of([counted, Step(function, inputs={"objects": "counts"}, outputs=Table("t"))]).steps[1].scope

    assert [scope(f) for f in (per_well, per_plate, plain_table)] == ["well", "plate", "plate"]


def test_a_table_function_of_wells_reaches_as_far_as_its_tables() -> None:
    steps = [
        Step(count, channel="DAPI", outputs=Table("counts")),
        Step(per_plate, inputs={"objects": "counts"}, outputs=Table("plate")),
        Step(per_well, inputs={"objects": "plate"}, outputs=Table("wells")),
    ]
    assert plan_of(steps).steps[2].scope == "plate"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"function": [per_well, per_well]}, "stands alone in its step"),
        ({"function": {"DAPI": per_well}}, "stands alone in its step"),
        ({"save": True}, "save=True keeps images, and a table function makes none"),
        ({"channel": "DAPI"}, "channel= is about images"),
        ({"stack": "z"}, "stack= is about images"),
        ({"outputs": ()}, "it names no output"),
        ({"outputs": Labels("t")}, "a table function makes tables, not labels"),
        ({"inputs": {"objects": "nuclei"}}, "objects='nuclei' is labels; a table function takes tables"),
        ({"inputs": {}}, "a table function takes tables, and is given none"),
    ],
)
def test_what_a_table_function_cannot_do(more: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"function": per_well, "inputs": {"objects": "counts"}, "outputs": Table("t"), **more}
    counted = Step(count, channel="DAPI", outputs=Table("counts"))
    found = [problem.message for problem in problems_of([NUCLEI, counted, Step(**given)])]
    assert any(message in one for one in found), found


# Reducers


def test_a_reducer_is_given_as_a_class_with_parameters_or_made() -> None:
    for step in (
        Step(MeanImage, {"power": 2}, outputs=ImageOutput("mean")),
        Step(MeanImage(2), outputs=ImageOutput("mean")),
    ):
        assert plan_of([step]).steps[0].kind == "reducer"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step([blur, MeanImage], outputs=ImageOutput("mean")), "a reducer stands alone in its step"),
        (Step({"DAPI": MeanImage}, outputs=ImageOutput("mean")), "a reducer stands alone in its step"),
        (Step(MeanImage, save=True, outputs=ImageOutput("mean")), "save=True keeps images, and a reducer makes none"),
        (Step(MeanImage), "it names no output"),
        (Step(MeanImage, {"pover": 2}, outputs=ImageOutput("mean")), "MeanImage: has no parameter 'pover'"),
        (Step(MeanImage(), {"power": 2}, outputs=ImageOutput("mean")), "it is made already"),
        (Step(MeanImage, inputs={"labels": "nuclei"}, outputs=ImageOutput("mean")), "a reducer takes no inputs"),
    ],
)
def test_what_a_reducer_cannot_do(step: Step, message: str) -> None:
    found = [problem.message for problem in problems_of([NUCLEI, step])]
    assert any(message in one for one in found), found


def test_points_are_made_like_tables() -> None:
    plan = plan_of([Step(count, channel="DAPI", outputs=Points("spots"))])
    assert plan.results[-1].over == "count"


def test_sizes_of_fields_may_differ() -> None:
    plate = make_plate(layouts={("A01", 1): layout(size_y=50)})
    assert len(plan_of([Step(blur)], plate).units) == 4
