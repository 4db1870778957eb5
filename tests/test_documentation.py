"""What the documentation says is true: its Python runs as it stands, its links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from openhcs_jupyter import functions
from openhcs_jupyter.compiler import compile as compile_pipeline
from openhcs_jupyter.config import Settings
from openhcs_jupyter.magics.line import line_parser, sub_parsers
from openhcs_jupyter.magics.names import standard_names
from openhcs_jupyter.magics.options import cell_parser, option_strings
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline.contracts import kernel_of
from openhcs_jupyter.topology import discover

_CHECKOUT = Path(__file__).parents[1]
_PAGES = sorted([*_CHECKOUT.glob("*.md"), *(_CHECKOUT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MAGIC = re.compile(r"^%.*$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]+\]\(([^)#:]+)(?:#[^)]*)?\)")


def _blocks(page: Path) -> list[str]:
    return [_MAGIC.sub("", block) for block in _BLOCK.findall(page.read_text())]


@pytest.fixture
def plate() -> Plate:
    layout = Layout(size_t=1, size_c=2, size_z=3, size_y=64, size_x=64, dtype="uint16", pixel_size_um=0.65)
    field = Field(id=1, number=1, images=(Image(id=1, kind="stack", layout=layout, version="1"),))
    return Plate(
        id=1,
        name="plate",
        repository="nowhere",
        rows=8,
        columns=12,
        channels=(Channel(name="DAPI"), Channel(name="GFP")),
        wells=(Well(id=1, row=0, column=0, fields=(field,)),),
    )


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_the_python_on_a_page_is_python(page: Path) -> None:
    for block in _blocks(page):
        ast.parse(block)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_the_links_on_a_page_lead_to_files(page: Path) -> None:
    broken = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert not broken


@pytest.mark.parametrize("name", ["README.md", "docs/pipelines.md"])
def test_the_pipelines_on_a_page_fit_a_plate_of_two_channels(name: str, plate: Plate) -> None:
    names = dict(standard_names())
    pipelines = 0
    for block in _blocks(_CHECKOUT / name):
        if "nuclei.table(" in block:
            continue
        names.pop("pipeline_steps", None)
        exec(block, names)
        if "pipeline_steps" in names and names["pipeline_steps"] is not ...:
            compile_pipeline(Pipeline(names["pipeline_steps"]), plate, discover())
            pipelines += 1
    assert pipelines


def test_every_option_sub_command_and_setting_has_its_line() -> None:
    page = (_CHECKOUT / "docs" / "magics.md").read_text()
    wanted = [f"`{option}" for option in option_strings(cell_parser())]
    wanted += [f"%openhcs {name}" for name in sub_parsers(line_parser())]
    wanted += [f"| `{name}` |" for name in Settings.__struct_fields__]
    assert [text for text in wanted if text not in page] == []


def test_every_standard_function_has_its_place_in_the_reference() -> None:
    page = (_CHECKOUT / "docs" / "reference" / "functions.md").read_text()
    assert [name for name in functions.__all__ if f"::: openhcs_jupyter.functions.{name}\n" not in page] == []


def test_the_page_of_functions_says_what_runs_on_a_gpu() -> None:
    page = (_CHECKOUT / "docs" / "functions.md").read_text()
    rows = dict(re.findall(r"^\| (on a [^|]+) \| ([^|]+) \|$", page, re.MULTILINE))
    told = {row: re.findall(r"`(\w+)`", names) for row, names in rows.items()}
    cpu = told.pop("on a CPU")
    gpu = [name for names in told.values() for name in names]
    assert sorted(gpu + cpu) == sorted(functions.__all__)
    assert {name for name in gpu + cpu if kernel_of(getattr(functions, name), "cupy")} == set(gpu)
