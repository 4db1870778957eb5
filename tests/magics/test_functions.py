"""The list of standard functions and the help of one, as text and as HTML."""

from __future__ import annotations

import re

import pytest

from openhcs_jupyter import cli, functions
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.views.functions import functions_view


def test_all_functions_are_listed_by_kind_with_a_line_each() -> None:
    shown = functions_view(None)
    lines = shown.text.splitlines()
    for name in functions.__all__:
        assert any(re.match(rf"  {name} +\w", line) for line in lines)
        assert f">{name}<" in shown.markup
    assert [line for line in lines if not line.startswith(" ")][1:-1] == [
        "Images to images",
        "Images to tables, labels and points",
        "Tables to tables",
        "Over a whole plate",
    ]


def test_a_word_finds_functions_by_name_and_description() -> None:
    shown = functions_view("Neurites").text
    assert "trace_neurites" in shown
    assert "measure_neurites" in shown
    assert "top_hat" not in shown
    assert "segment_nuclei" in functions_view("touch").text


@pytest.mark.parametrize("name", functions.__all__)
def test_every_function_shows_its_signature_and_docstring(name: str) -> None:
    shown = functions_view(name)
    assert shown.text.startswith(f"{name}(")
    docstring = getattr(functions, name).__doc__
    assert docstring.split("\n", 1)[0] in shown.text
    assert "`" not in shown.markup
    assert shown.markup.count("<div") == shown.markup.count("</div>")
    assert shown.markup.count("<code") == shown.markup.count("</code>")


def test_parameters_and_their_defaults_are_told() -> None:
    shown = functions_view("top_hat")
    assert shown.text.startswith("top_hat(stack, radius=15, downsample=4)\nStep(top_hat): images to images,")
    assert "Radius of the disk in pixels" in shown.markup


def test_a_word_that_finds_nothing_is_told_with_what_is_near() -> None:
    with pytest.raises(UsageError, match="'gausian_blur'") as caught:
        functions_view("gausian_blur")
    assert "gaussian_blur" in str(caught.value.hint)


def test_the_shell_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["functions"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[:-1] == functions_view(None).text.splitlines()[:-1]
    assert listed[-1] == "openhcs-jupyter functions NAME shows one with its parameters."
    assert cli.main(["functions", "crop"]) == 0
    assert capsys.readouterr().out == f"{functions_view('crop').text}\n"
    assert cli.main(["functions", "xyzzy"]) == 2
    assert "openhcs-jupyter functions lists all" in capsys.readouterr().err
