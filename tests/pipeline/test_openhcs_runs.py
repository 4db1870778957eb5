"""Pipelines written for OpenHCS run, and give what plain loops give."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter.compiler import Selection
from openhcs_jupyter.door import Source, define_steps, plan_run
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.names import standard_names
from openhcs_jupyter.magics.options import parse_cell
from openhcs_jupyter.pipeline import FunctionStep, adapt
from tests.engine.bench import Bench
from tests.pipeline.openhcs_words import (
    CHECKOUT,
    Z,
    of_openhcs,
    spec,
)
from tests.plates import MadePlate


def _stack(made: MadePlate, well: str, field: int, c: int) -> Any:
    return np.stack([made.plane(well, field, c, z) for z in range(made.z)])


def test_a_run_gives_what_plain_loops_give(bench: Bench) -> None:
    def flat(plane: Any, low: int) -> Any:
        assert plane.ndim == 2
        return plane - low

    def mean(stack: Any) -> Any:
        return stack.mean(axis=0)

    def measure(stack: Any) -> Any:
        masks = [(plane > plane.mean()).astype(np.int32) for plane in stack]
        rows = [{"slice": z, "area": int(mask.sum()), "at": (1.5, z)} for z, mask in enumerate(masks)]
        return stack, rows, masks

    flat, mean = of_openhcs(flat, "PURE_2D"), of_openhcs(mean, "VOLUMETRIC_TO_SLICE")
    specs = (spec("areas", "measurements"), spec("masks", "object_labels"))
    measure = of_openhcs(measure, "PURE_3D", artifact_outputs=specs)
    steps = [
        FunctionStep({"1": (flat, {"low": 3}), "2": (flat, {"low": 5})}, name="flat", variable_components=Z),
        FunctionStep({"1": measure}, variable_components=Z, name="measure"),
        FunctionStep(mean, variable_components=Z, step_materialization_config=True, name="mean"),
    ]
    adapted = adapt([*steps], bench.plate)
    run = bench.done(*adapted.steps)
    areas = run.table("areas")
    for well in bench.made.wells:
        for field in (1, 2):
            for c, low in enumerate((3, 5)):
                stack = np.stack([plane - low for plane in _stack(bench.made, well, field, c)])
                image = run.image("mean", well=well, field=field)
                assert image.dtype == np.float64
                np.testing.assert_array_equal(image[0, c, 0], stack.mean(axis=0))
                if c == 0:
                    masks = stack > stack.mean(axis=(1, 2), keepdims=True)
                    np.testing.assert_array_equal(run.labels("masks", well=well, field=field)[0, 0], masks)
                    rows = areas[(areas["well"] == well) & (areas["field"] == field)]
                    assert list(rows["area"]) == list(masks.sum(axis=(1, 2)))
                    assert [json.loads(at) for at in rows["at"]] == [[1.5, z] for z in range(3)]


def test_sites_are_one_stack_of_a_well(bench: Bench) -> None:
    def minus_mean(stack: Any) -> Any:
        return stack - stack.mean(axis=0)

    steps = adapt([FunctionStep(minus_mean, step_materialization_config=True)], bench.plate).steps
    run = bench.done(*steps, selection=Selection(wells=("A01",)))
    for z in range(3):
        sites = np.stack([bench.made.plane("A01", field, 1, z) for field in (1, 2)])
        for field in (1, 2):
            image = run.image("minus_mean", well="A01", field=field)
            np.testing.assert_array_equal(image[0, 1, z], (sites - sites.mean(axis=0))[field - 1])


def test_what_is_made_plane_by_plane_is_joined_with_the_plane_s_index(bench: Bench) -> None:
    def measure(plane: Any, mask: Any) -> Any:
        assert plane.shape == mask.shape
        return plane, pd.DataFrame({"inside": [int(plane[mask > 0].sum())]})

    def find(plane: Any) -> Any:
        return plane, plane > 2000

    find = of_openhcs(find, "PURE_2D", artifact_outputs=(spec("bright", "object_labels"),))
    marks = {
        "artifact_outputs": (spec("sums", "table"),),
        "artifact_inputs": (spec("bright", "object_labels", "mask"),),
    }
    measure = of_openhcs(measure, **marks)
    steps = [
        FunctionStep({"1": find}, name="find", variable_components=Z),
        FunctionStep({"1": (measure, {"slice_by_slice": True})}, name="measure", variable_components=Z),
    ]

    run = bench.done(*adapt(steps, bench.plate).steps, selection=Selection(wells=("A01",), fields=(1,)))
    table = run.table("sums")
    stack = _stack(bench.made, "A01", 1, 0)
    assert list(table["slice_index"]) == [0, 1, 2]
    assert list(table["inside"]) == [int(plane[plane > 2000].sum()) for plane in stack]


def test_a_cell_of_function_steps_is_planned_with_its_wells_and_notes(bench: Bench) -> None:
    text = (
        "pipeline_config = None\n"
        "pipeline_steps = [\n"
        "    FunctionStep(func={'1': gaussian_blur}, variable_components=['z_index'], well_filter='col:01'),\n"
        "    FunctionStep(func=median, enabled=False),\n"
        "]\n"
    )
    source = Source("Cell In[1]", text, "<cell>")
    steps = define_steps(source, text, {**standard_names(), "__name__": "__main__"})
    plan = plan_run(steps, source, bench.plate, parse_cell("nuclei"))
    assert {unit.well for unit in plan.units} == {"A01"}
    assert plan.steps[0].line == 3
    assert ("step 'median'", "it is not enabled") in [(left.what, left.why) for left in plan.left_out]
    with pytest.raises(UsageError, match="takes none of B02"):
        plan_run(steps, source, bench.plate, parse_cell("nuclei --wells B02"))


# OpenHCS's own objects, where it is installed.


def _python_with_openhcs() -> str:
    if importlib.util.find_spec("openhcs"):
        return sys.executable
    peer = CHECKOUT / ".bench" / "openhcs" / "bin" / "python"
    if not peer.exists():
        pytest.skip("OpenHCS is not installed, neither here (the extra openhcs) nor by python -m benchmarks.peer")
    return str(peer)


def test_openhcs_s_own_steps_give_what_its_functions_give_in_plain_loops(tmp_path: Path) -> None:
    python = _python_with_openhcs()
    done = subprocess.run(
        [python, "-m", "tests.pipeline.openhcs_script", str(tmp_path)],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "OPENHCS_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, done.stderr[-4000:]
    answer = json.loads(lines[0].removeprefix("ANSWER "))
    assert answer["wells"] == ["B01", "B02"]
    assert answer["notes"] == ["step 'off'"]
    assert answer["view"] == [["projection", "localhost", 5555]]
    assert answer["lines"]
    assert answer["cells"] > 0
    assert all(right == of for right, of in answer["right"].values()), answer["right"]
    assert set(answer["right"]) == {
        "planes", "scaled", "native", "projection", "counts", "areas", "labels", "composite",
    }  # fmt: skip
    assert "openhcs" in answer["versions"]
