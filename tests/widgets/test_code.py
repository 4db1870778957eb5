"""The text of a pipeline is changed in place; what is not a step stays as it was written."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.widgets.code import EMPTY, PipelineText, step_text

CELL = """%%openhcs nuclei --plate 1
# Größe in µm
limit = 3  # pixels

pipeline_steps = [
    Step(max_projection, save=True),
    Step(gaussian_blur, {"sigma": limit}),  # smooth
    Step({"DAPI": [gaussian_blur, (top_hat, {"radius": 15})], "GFP": gaussian_blur}),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
]
print("é", pipeline_steps)
"""


def _codes(text: PipelineText) -> list[str]:
    return [step.code for step in text.steps]


def test_steps_functions_parameters_and_options_are_found() -> None:
    text = PipelineText(CELL)
    assert [call.function for call in text.steps[2].calls] == ["gaussian_blur", "top_hat", "gaussian_blur"]
    assert [call.channel for call in text.steps[2].calls] == ["DAPI", "DAPI", "GFP"]
    assert text.steps[2].calls[1].params == {"radius": "15"}
    assert text.steps[1].calls[0].params == {"sigma": "limit"}
    assert text.steps[3].options == {"channel": '"DAPI"', "outputs": 'Labels("nuclei")'}
    assert text.line_of(1) == 7


def test_only_lines_that_begin_a_statement_are_magics() -> None:
    text = (
        "%%openhcs run --wells A01\n"
        "%config it's no \\\n\\\n   Python\n"
        '!ls "odd\n'
        'note = """of\n%d wells\n! \x0c now\u2028""" % 2\n'
        "share = 7 \\\n    % 4\n"
        "rest = (7\n% 4,\n5\n!= 6)\n"
        "if True:\n    %time 3\n    5\r\n"
        'pipeline_steps = [\n    Step(é, {"a": 7\n    % 4}),\n]'
    )
    told = PipelineText(text)
    assert len(told.python) == len(text)
    assert told.steps[0].code == 'Step(é, {"a": 7\n    % 4})'
    found = {ast.unparse(node.targets[0]): node.value for node in told.others.body if isinstance(node, ast.Assign)}
    assert eval(ast.unparse(found["note"])) == "of\n2 wells\n! \x0c now\u2028"
    assert eval(ast.unparse(found["share"])) == 3
    assert eval(ast.unparse(found["rest"])) == (3, True)
    assert told.set_params(0, 0, {"b": "1"}).text == text.replace('{"a": 7\n    % 4}', '{"b": 1}')


@pytest.mark.parametrize(
    "text", ["%%openhcs run\nx = (\n%time 1\n", "'''\n%time", "a = 1\n  b\n%c", "(", "%", "!\\", "a \\"]
)
def test_what_is_no_python_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        PipelineText(text)


@pytest.mark.parametrize(
    ("step", "call", "params", "line"),
    [
        (0, 0, {"a": "1"}, 'Step(max_projection, {"a": 1}, save=True)'),
        (1, 0, {"sigma": "2.5"}, 'Step(gaussian_blur, {"sigma": 2.5})'),
        (1, 0, {}, "Step(gaussian_blur)"),
        (2, 2, {"sigma": "1"}, '"GFP": (gaussian_blur, {"sigma": 1})})'),
        (2, 1, {"radius": "7"}, '(top_hat, {"radius": 7})'),
    ],
)
def test_a_parameter_is_changed_in_its_place(step: int, call: int, params: dict[str, str], line: str) -> None:
    changed = PipelineText(CELL).set_params(step, call, params)
    assert line in changed.text
    untouched = [code for index, code in enumerate(_codes(PipelineText(CELL))) if index != step]
    assert all(code in changed.text for code in untouched)
    assert "# smooth" in changed.text
    assert changed.steps[step].calls[call].params == params


def test_options_come_change_and_go() -> None:
    text = PipelineText(CELL)
    assert _codes(text.set_option(1, "save", "True"))[1] == 'Step(gaussian_blur, {"sigma": limit}, save=True)'
    assert _codes(text.set_option(3, "channel", '"GFP"'))[3].startswith('Step(segment_nuclei, channel="GFP"')
    assert _codes(text.set_option(3, "outputs", None))[3] == 'Step(segment_nuclei, channel="DAPI")'
    assert _codes(text.set_option(0, "save", None))[0] == "Step(max_projection)"


def test_steps_are_inserted_moved_and_removed() -> None:
    text = PipelineText(EMPTY).insert(0, "Step(max_projection)").insert(1, "Step(gaussian_blur)")
    text = text.insert(0, step_text("crop", {"top": 10}, {"save": "True"}))
    assert text.text == (
        '%%openhcs run\npipeline_steps = [\n    Step(crop, {"top": 10}, save=True),\n    Step(max_projection),\n'
        "    Step(gaussian_blur),\n]\n"
    )
    assert [call.function for step in text.move(2, 0).steps for call in step.calls] == [
        "gaussian_blur", "crop", "max_projection",
    ]  # fmt: skip
    for _ in range(3):
        text = text.remove(len(text.steps) - 1)
    assert PipelineText(text.text).steps == ()


def test_what_is_not_a_pipeline_is_told_with_its_line() -> None:
    with pytest.raises(UsageError, match="Line 3"):
        PipelineText("%%openhcs\npipeline_steps = [\n    Step(max_projection]\n")
    with pytest.raises(UsageError, match="assigns no list to pipeline_steps"):
        PipelineText("steps = []")
    assert PipelineText("pipeline_steps = [*more, make(1)]").steps[1].calls == ()


_STEPS = st.lists(
    st.sampled_from(["Step(a)", 'Step(b, {"x": 1})', "Step([c, (d, {'y': 'é,)'})], save=True)", "other(1)", "*rest"]),
    max_size=5,
)
_LAYOUTS = st.sampled_from([", ", ",\n    ", ",  # ä comment, with [brackets]\n    "])


@given(codes=_STEPS, between=_LAYOUTS, comma=st.booleans(), wrapped=st.booleans(), data=st.data())
def test_any_change_leaves_python_and_the_other_steps(
    codes: list[str], between: str, comma: bool, wrapped: bool, data: st.DataObject
) -> None:
    inner = between.join(codes) + ("," if comma and codes else "")
    edge = "\n" if wrapped else ""
    text = PipelineText(f"%%openhcs x\nä = 1\npipeline_steps = [{edge}{inner}{edge}]\nlast = 2\n")
    assert _codes(text) == codes
    at = data.draw(st.integers(0, len(codes)))
    longer = text.insert(at, "Step(new)")
    assert _codes(longer) == [*codes[:at], "Step(new)", *codes[at:]]
    gone = data.draw(st.integers(0, len(codes)))
    expected = _codes(longer)
    del expected[gone]
    shorter = longer.remove(gone)
    assert _codes(shorter) == expected
    assert shorter.text.endswith("last = 2\n")
    to = data.draw(st.integers(0, len(codes)))
    moved = [*_codes(longer)]
    moved.insert(to, moved.pop(gone))
    assert _codes(longer.move(gone, to)) == moved
    ast.parse(longer.move(gone, to).python)
