"""Previews of one field: what they show is what a run makes, and only what changed is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter import Labels, Step, Table
from openhcs_jupyter.engine.stepwise import Stepwise
from openhcs_jupyter.errors import CompileError, RunError
from openhcs_jupyter.functions import (
    IlluminationEstimate,
    correct_illumination,
    gaussian_blur,
    max_projection,
    measure_objects,
    well_medians,
)
from openhcs_jupyter.pipeline import ImageOutput
from tests.engine.bench import Bench, topology


def bright_regions(stack: Any) -> Any:
    import cv2

    return cv2.connectedComponents((stack[0] > 2500).astype("uint8"))[1]


def _stepwise(bench: Bench, well: str = "A01", field: int = 1) -> Stepwise:
    return Stepwise(bench.plate, bench.repository, topology(), well=well, field=field)


def _steps(sigma: float = 1.0) -> list[Step]:
    return [
        Step(max_projection, save=True),
        Step(gaussian_blur, {"sigma": sigma}, save=True),
        Step(bright_regions, channel="DAPI", outputs=Labels("objects")),
        Step(measure_objects, inputs={"labels": "objects"}, outputs=Table("objects")),
        Step(well_medians, inputs={"objects": "objects"}, outputs=Table("wells")),
    ]


def test_a_preview_shows_what_a_run_makes(bench: Bench) -> None:
    run = bench.done(*_steps())
    before, after = _stepwise(bench, "B02", 2).run(_steps(), 1)
    assert before is not None
    for index, channel in enumerate(("DAPI", "GFP")):
        for name, made in (("max_projection", before), ("gaussian_blur", after)):
            np.testing.assert_array_equal(made.images[channel], run.image(name, well="B02", field=2)[0, index])
    _, after = _stepwise(bench, "B02", 2).run(_steps(), 3)
    whole = run.table("objects")
    of_field = whole[(whole["well"] == "B02") & (whole["field"] == 2)]
    assert len(after.tables["objects"]) == len(of_field) > 0


def test_only_what_has_changed_is_computed_again(bench: Bench) -> None:
    preview = _stepwise(bench)
    _, first = preview.run(_steps(1.0), 1)
    assert first.computed == 2
    _, again = preview.run(_steps(1.0), 1)
    assert again.computed == 0
    _, other = preview.run(_steps(3.0), 1)
    assert other.computed == 1
    assert not np.array_equal(first.images["DAPI"], other.images["DAPI"])
    np.testing.assert_array_equal(other.images["DAPI"], _stepwise(bench).run(_steps(3.0), 1)[1].images["DAPI"])
    _, labels = preview.run(_steps(3.0), 2)
    assert labels.computed == 1
    assert labels.labels["objects"].shape[1:] == other.images["DAPI"].shape[1:]


def test_tables_of_a_well_and_reducers_see_the_one_field(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(fields=2, z=1)
    _, wells = _stepwise(bench).run(_steps(), 4)
    assert len(wells.tables["wells"]) == 1
    steps = [
        Step(IlluminationEstimate, outputs=ImageOutput("light")),
        Step(correct_illumination, inputs={"flat": "light"}),
    ]
    _, corrected = _stepwise(bench).run(steps, 1)
    assert corrected.images["DAPI"].shape == (1, 24, 32)


def test_what_is_wrong_is_said(bench: Bench) -> None:
    def picky(stack: Any) -> Any:
        raise ValueError("not this one")

    with pytest.raises(RunError, match=r"Step picky .*not this one"):
        _stepwise(bench).run([Step(picky)], 0)
    with pytest.raises(CompileError, match="sigm"):
        _stepwise(bench).run([Step(gaussian_blur, {"sigm": 1})], 0)
