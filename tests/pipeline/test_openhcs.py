"""Pipelines written for OpenHCS: what its users type is run, or refused with what to write instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.door import Source, define_steps, plan_run, viewers_of
from openhcs_jupyter.errors import CompileError, UsageError
from openhcs_jupyter.functions import composite, gaussian_blur, max_projection, top_hat
from openhcs_jupyter.magics.names import standard_names
from openhcs_jupyter.magics.options import parse_cell
from openhcs_jupyter.pipeline import FunctionStep, ImageOutput, Labels, Step, Table, ViewRequest, adapt, function_step
from openhcs_jupyter.pipeline.chains import chains_of
from openhcs_jupyter.pipeline.fingerprint import fingerprint
from tests.engine.bench import Bench
from tests.pipeline.openhcs_words import (
    PLATE,
    GroupBy,
    VariableComponents,
    Z,
    of_openhcs,
    problem,
    spec,
)

# What a step says.


def test_flat_keywords_and_a_config_object_say_the_same() -> None:
    flat = FunctionStep(func=max_projection, variable_components=[VariableComponents.Z_INDEX], group_by=GroupBy.NONE)
    config = SimpleNamespace(variable_components=[VariableComponents.Z_INDEX], group_by=GroupBy.NONE)
    both = adapt([flat, FunctionStep(max_projection, processing_config=config)], PLATE).steps
    assert [(step.function, step.stack, step.name) for step in both] == [([max_projection], "z", "max_projection")] * 2


@pytest.mark.parametrize(
    ("said", "stack"),
    [
        (None, "field"),
        ([VariableComponents.SITE], "field"),
        ([VariableComponents.CHANNEL], "channel"),
        ([VariableComponents.Z_INDEX], "z"),
        ([VariableComponents.TIMEPOINT], "t"),
        (["Z_INDEX"], "z"),
        ("VariableComponents.CHANNEL", "channel"),
    ],
)
def test_variable_components_is_the_stack_and_sites_are_the_usual_ones(said: Any, stack: str) -> None:
    (step,) = adapt([FunctionStep(composite, variable_components=said)], PLATE).steps
    assert step.stack == stack


@pytest.mark.parametrize("keys", [("1", "2"), (1, 2), ("DAPI", "GFP")])
def test_keys_of_a_dict_are_channels_counted_from_1_or_their_names(keys: tuple[Any, Any]) -> None:
    blur = (gaussian_blur, {"sigma": 2})
    func = {keys[0]: [blur, top_hat], keys[1]: gaussian_blur}
    (step,) = adapt([FunctionStep(func=func, name="preprocess", variable_components=Z)], PLATE).steps
    assert step.function == {"DAPI": [blur, top_hat], "GFP": [gaussian_blur]}
    assert set(chains_of(step)) == {"DAPI", "GFP"}


def test_a_step_that_is_not_enabled_is_left_out_and_that_is_told() -> None:
    off = FunctionStep(gaussian_blur, name="blur", enabled=False)
    within = FunctionStep([(top_hat, {"enabled": False}), max_projection], variable_components=Z)
    adapted = adapt([off, within], PLATE)
    assert [step.function for step in adapted.steps] == [[max_projection]]
    assert adapted.notes == (
        ("step 'blur'", "it is not enabled"),
        ("top_hat in step 'top_hat'", "it is not enabled"),
    )


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (None, False),
        (True, True),
        (SimpleNamespace(enabled=True), True),
        (SimpleNamespace(enabled=False), False),
        (SimpleNamespace(sub_dir="checkpoints"), True),
    ],
)
def test_a_materialised_step_keeps_its_images(config: Any, kept: bool) -> None:
    (step,) = adapt([FunctionStep(gaussian_blur, step_materialization_config=config)], PLATE).steps
    assert step.save is kept


def test_a_streaming_configuration_asks_for_a_viewer() -> None:
    there = SimpleNamespace(enabled=True, host="gpu-box", port=5601)
    common = SimpleNamespace(napari_streaming_config=SimpleNamespace(port=5600))
    steps = [
        function_step(FunctionStep(gaussian_blur, name="blur", napari_streaming_config=there), common),
        function_step(FunctionStep(top_hat, name="hat", napari_streaming_config=True), common),
        FunctionStep(top_hat, name="again", napari_streaming_config=there),
        FunctionStep(top_hat, name="off", napari_streaming_config=SimpleNamespace(enabled=False)),
        FunctionStep(max_projection, name="last", napari_streaming_config={"enabled": True}),
    ]
    adapted = adapt(steps, PLATE)
    assert adapted.view == (
        ViewRequest(steps=("blur", "again"), host="gpu-box", port=5601),
        ViewRequest(steps=("hat",), host="localhost", port=5600),
        ViewRequest(steps=("last",), host="localhost", port=5555),
    )
    assert adapted.notes == ()


def test_a_streaming_configuration_is_view_and_may_name_a_viewer_elsewhere(bench: Bench) -> None:
    text = (
        "pipeline_steps = [\n"
        "    FunctionStep(gaussian_blur, napari_streaming_config={'enabled': True, 'host': HOST, 'port': 5601}),\n"
        "]\n"
    )
    source = Source("Cell In[1]", text, "<cell>")
    asked = {}
    for host in ("localhost", "gpu-box"):
        steps = define_steps(source, text, {**standard_names(), "__name__": "__main__", "HOST": host})
        for line in ("run", "run --view"):
            options = parse_cell(line)
            asked[host, line] = viewers_of(options, plan_run(steps, source, bench.plate, options))
    assert asked == {
        ("localhost", "run"): [None],
        ("localhost", "run --view"): [None],
        ("gpu-box", "run"): [("gpu-box", 5601)],
        ("gpu-box", "run --view"): [None, ("gpu-box", 5601)],
    }


@pytest.mark.parametrize("wrong", [{"port": 0}, {"port": 70000}, {"port": "5555"}, {"host": " "}, {"host": 7}])
def test_a_viewer_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    config = SimpleNamespace(enabled=True, **wrong)
    assert "napari_streaming_config is no" in problem(FunctionStep(gaussian_blur, napari_streaming_config=config))


def test_a_stream_to_fiji_is_left_out_and_that_is_told() -> None:
    adapted = adapt([FunctionStep(gaussian_blur, name="blur", fiji_streaming_config=True)], PLATE)
    assert adapted.notes == (("fiji_streaming_config of step 'blur'", "images are streamed to napari only"),)


def test_steps_of_both_kinds_stand_beside_each_other() -> None:
    ours = Step(max_projection)
    assert adapt([FunctionStep(gaussian_blur), ours], PLATE).steps[1] is ours


def test_an_object_that_looks_like_openhcs_is_taken_for_it() -> None:
    theirs = SimpleNamespace(
        func=gaussian_blur,
        name="blur",
        enabled=True,
        processing_config=SimpleNamespace(variable_components=None, group_by=None, input_source=None),
    )
    pipeline = SimpleNamespace(
        processing_config=SimpleNamespace(variable_components=[VariableComponents.Z_INDEX]),
        well_filter_config=SimpleNamespace(well_filter=2),
    )
    adapted = adapt([function_step(theirs, pipeline)], PLATE)
    assert (adapted.steps[0].name, adapted.steps[0].stack, adapted.wells) == ("blur", "z", ("A01", "A02"))


# Wells.


@pytest.mark.parametrize(
    ("said", "wells"),
    [
        ("A01", ["A01"]),
        ("a1, b2", ["A01", "B02"]),
        (["B02", "A03"], ["A03", "B02"]),
        ("A01:A02", ["A01", "A02"]),
        ("A03:B01", ["A03", "B01"]),
        ("row:B", ["B01", "B02", "B03"]),
        ("col:02-03", ["A02", "A03", "B02", "B03"]),
        (2, ["A01", "A02"]),
        ("4", ["A01", "A02", "A03", "B01"]),
    ],
)
def test_a_well_filter_of_all_steps_is_the_run_s_selection(said: Any, wells: list[str]) -> None:
    config = SimpleNamespace(well_filter=said)
    steps = [FunctionStep(gaussian_blur, well_filter=said), FunctionStep(top_hat, step_well_filter_config=config)]
    assert list(adapt(steps, PLATE).wells or ()) == wells


def test_a_well_filter_can_exclude() -> None:
    config = SimpleNamespace(well_filter=["A01", "H12"], well_filter_mode=SimpleNamespace(name="EXCLUDE"))
    adapted = adapt([FunctionStep(gaussian_blur, step_well_filter_config=config)], PLATE)
    assert adapted.wells == ("A02", "A03", "B01", "B02", "B03")


@given(st.sets(st.sampled_from([well.name for well in PLATE.wells]), min_size=1))
def test_any_list_of_wells_is_taken_in_the_plate_s_order(wells: set[str]) -> None:
    assert adapt([FunctionStep(gaussian_blur, well_filter=list(wells))], PLATE).wells == tuple(sorted(wells))


@given(st.text(max_size=12) | st.integers() | st.lists(st.text(max_size=4), max_size=3))
def test_any_other_filter_is_wells_of_the_plate_or_a_problem(said: Any) -> None:
    told = ""
    try:
        wells = adapt([FunctionStep(gaussian_blur, well_filter=said)], PLATE).wells
    except CompileError as error:
        told = str(error)
        wells = ()
    assert wells or "well filter" in told
    assert set(wells or ()) <= {well.name for well in PLATE.wells}


def test_a_filter_of_one_step_only_is_refused() -> None:
    text = problem(FunctionStep(gaussian_blur, name="a", well_filter="A01"), FunctionStep(top_hat, name="b"))
    assert "a: it takes A01, and 'b' takes all wells; a run takes the same wells in all of its steps" in text
    assert "choose with --wells" in text
    assert "that are no FunctionStep take all" in problem(FunctionStep(top_hat, well_filter="A01"), Step(composite))


# Errors.


@pytest.mark.parametrize(
    ("step", "message", "hint"),
    [
        (FunctionStep(), "FunctionStep: it has no function", "FunctionStep(func=...)"),
        (FunctionStep({"3": top_hat}), "there is no channel '3'", 'has "1" (DAPI), "2" (GFP)'),
        (FunctionStep({"1": top_hat, "DAPI": top_hat}), "names channel 'DAPI' twice", "Make it a chain"),
        (FunctionStep({"1": top_hat}, group_by=GroupBy.SITE), "goes by site", "group_by=GroupBy.CHANNEL"),
        (FunctionStep({"1": top_hat}, variable_components=["channel"]), "cannot take its channels together", "one"),
        (FunctionStep(top_hat, variable_components=["well"]), "no stack along 'well'", "SITE, CHANNEL, Z_INDEX"),
        (FunctionStep(top_hat, variable_components=["site", "z_index"]), "along site and z_index", "Name one"),
        (FunctionStep(top_hat, variable_components=[]), "along nothing", "Name one"),
        (FunctionStep([3]), "3 cannot be called", "func=f"),
        (FunctionStep((top_hat, 15)), "is not (function, params)", "Chains are lists"),
        (FunctionStep(top_hat, well_filter="H12"), "names H12, in which plate 'plate' has no images", "Wells are"),
        (FunctionStep(top_hat, well_filter="A"), "well filter 'A' cannot be read", "Wells are written"),
        (FunctionStep(top_hat, well_filter=7), "takes 7 wells, and the plate has 6", "Wells are written"),
    ],
)
def test_what_cannot_be_done_names_the_step_and_says_what_to_write(step: Any, message: str, hint: str) -> None:
    text = problem(step)
    assert message in text
    assert hint in text
    assert f"line {step.line}: {step.name}: " in text


def test_all_problems_are_told_at_once() -> None:
    text = problem(FunctionStep({"9": top_hat}), FunctionStep(top_hat, variable_components=["well"]))
    assert text.startswith("2 problems in Cell In[1]")


def test_the_pipeline_s_start_can_only_be_the_first_step_s_source() -> None:
    first = FunctionStep(top_hat, input_source="PIPELINE_START")
    assert len(adapt([first], PLATE).steps) == 1
    assert "as they were at the start of the pipeline" in problem(FunctionStep(gaussian_blur), first)


def test_functions_of_other_memory_are_refused() -> None:
    function = of_openhcs(lambda stack: stack)
    function.input_memory_type = "cupy"  # type: ignore[attr-defined]  # as OpenHCS marks functions
    assert "computes with cupy; this version runs functions of NumPy" in problem(FunctionStep(function, name="gpu"))


def test_arguments_are_said_once_and_known() -> None:
    with pytest.raises(UsageError, match="no argument 'sigma'"):
        FunctionStep(gaussian_blur, sigma=2)
    with pytest.raises(UsageError, match="stands beside variable_components="):
        FunctionStep(gaussian_blur, processing_config=SimpleNamespace(), variable_components=Z)
    with pytest.raises(UsageError, match="stands beside well_filter="):
        FunctionStep(gaussian_blur, step_well_filter_config=SimpleNamespace(), well_filter=1)


# Outputs.


class CsvOptions: ...


class ROIOptions: ...


def test_declared_outputs_are_tables_labels_and_images_by_their_type() -> None:
    specs = (
        spec("counts", "measurements"),
        spec("cells", "object_labels"),
        spec("corrected", "image"),
        spec("masks", "special", None, ROIOptions()),
        spec("rows", "special", None, CsvOptions()),
        "notes",
    )
    function = of_openhcs(lambda stack: stack, artifact_outputs=specs)
    (step,) = adapt([FunctionStep(function, name="count", variable_components=Z)], PLATE).steps
    assert step.outputs == (
        Table("counts"),
        Labels("cells"),
        ImageOutput("corrected"),
        Labels("masks"),
        Table("rows"),
        Table("notes"),
    )


def test_an_output_that_is_none_of_these_is_refused() -> None:
    function = of_openhcs(lambda stack: stack, artifact_outputs=(spec("graph", "spatial_graph"),))
    assert "makes 'graph', which is spatial_graph" in problem(FunctionStep(function))


def test_a_function_in_the_midst_of_a_chain_ends_a_step_with_its_outputs() -> None:
    count = of_openhcs(lambda stack: stack, artifact_outputs=(spec("counts", "table"),))
    kept = SimpleNamespace(enabled=True)
    chain = [gaussian_blur, count, top_hat]
    step = FunctionStep(chain, name="all", variable_components=Z, step_materialization_config=kept)
    first, second = adapt([step], PLATE).steps
    assert (first.name, first.outputs, first.save) == ("all 1", (Table("counts"),), False)
    assert (second.name, second.outputs, second.save) == ("all", (), True)


def test_outputs_that_are_declared_twice_get_names_of_their_own() -> None:
    count = of_openhcs(lambda stack: stack, artifact_outputs=(spec("counts", "table"),))
    two = {"1": count, "2": [count, top_hat]}
    steps = adapt([FunctionStep(two, name="each"), FunctionStep(count, name="again")], PLATE).steps
    assert [(step.name, step.channel) for step in steps] == [
        ("each DAPI", ("DAPI",)),
        ("each GFP 1", ("GFP",)),
        ("each GFP", ("GFP",)),
        ("again", None),
    ]
    assert [step.outputs for step in steps] == [
        (Table("counts"),),
        (Table("counts_GFP"),),
        (),
        (Table("again_counts"),),
    ]


def test_inputs_are_the_latest_outputs_of_that_name() -> None:
    def mask(stack: Any) -> Any:
        return stack, stack > 5

    def apply_mask(stack: Any, mask: Any) -> Any:
        return stack * mask

    mask = of_openhcs(mask, artifact_outputs=(spec("nuclei", "object_labels"),))
    apply_mask = of_openhcs(apply_mask, artifact_inputs=(spec("nuclei", "object_labels", "mask"),))
    taking = FunctionStep(apply_mask, name="mask it")
    assert adapt([FunctionStep(mask), taking], PLATE).steps[1].inputs == {"mask": "nuclei"}
    assert adapt([Step(mask, outputs=Labels("nuclei")), taking], PLATE).steps[1].inputs == {"mask": "nuclei"}
    assert "takes 'nuclei', which no step before it makes" in problem(taking)
    assert adapt([FunctionStep((apply_mask, {"mask": 1}))], PLATE).steps[0].inputs == {}


# Identity: an adapted function is known by what it does.


def test_an_adapted_function_has_the_identity_of_its_code_and_contract() -> None:
    def one(contract: str) -> str:
        function = of_openhcs(lambda stack: stack + 1, contract)
        (step,) = adapt([FunctionStep(function, variable_components=Z)], PLATE).steps
        return fingerprint(chains_of(step)["*"][0].function)

    assert one("FLEXIBLE") == one("PURE_3D")
    assert one("FLEXIBLE") != one("PURE_2D")
