"""Steps that cut or bin: how pixels lie over the recorded ones, from function to function."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.functions import bin_pixels, crop, side_projection
from openhcs_jupyter.model import RECORDED, PixelGrid
from openhcs_jupyter.pipeline import ImageOutput, Labels, Points, Step, Table, image
from tests.compiler.functions import MeanImage, blur, count, locate, mix, per_plate, project, segment
from tests.compiler.plates import plan_of, problem_of

BOX = {"y": 4, "x": 6, "height": 20, "width": 20}


def grids(plan: ExecutionPlan) -> dict[str, PixelGrid | None]:
    return {result.name: result.grid for result in plan.results}


def test_results_know_how_their_pixels_lie() -> None:
    plan = plan_of(
        [
            Step(blur, save=True),
            Step([(crop, BOX), bin_pixels], save=True, name="small"),
            Step(segment, channel="DAPI", outputs=(Labels("nuclei"), Points("spots"))),
            Step(MeanImage, channel="DAPI", outputs=ImageOutput("mean")),
            Step(mix, save=True),
        ]
    )
    small = PixelGrid(2, 4, 6)
    assert grids(plan) == {
        "blur": RECORDED, "small": small, "nuclei": small, "spots": small, "mean": small, "mix": small,
    }  # fmt: skip
    assert ExecutionPlan.from_json(plan.to_json()) == plan


@given(
    parts=st.lists(
        st.one_of(
            st.tuples(st.just("crop"), st.integers(0, 9), st.integers(0, 9)),
            st.tuples(st.just("bin"), st.integers(1, 4), st.just(0)),
        ),
        max_size=4,
    )
)
def test_a_pixel_is_found_where_it_was_recorded(parts: list[tuple[str, int, int]]) -> None:
    pixels: Any = np.stack(np.meshgrid(np.arange(600.0), np.arange(600.0), indexing="ij"))
    grid = RECORDED
    for name, first, second in parts:
        if name == "crop":
            side = min(pixels.shape[1:]) - 9
            pixels = crop(pixels, y=first, x=second, height=side, width=side)
            grid = grid.then(PixelGrid(y=first, x=second))
        else:
            pixels = bin_pixels(pixels, first)
            grid = grid.then(PixelGrid(first))
    # The mean of recorded rows and columns is the place of the pixel's centre.
    assert tuple(pixels[:, 0, 0]) == (grid.y + (grid.factor - 1) / 2, grid.x + (grid.factor - 1) / 2)


def test_channels_that_differ_have_no_common_grid() -> None:
    plan = plan_of([Step({"DAPI": bin_pixels, "GFP": (bin_pixels, {"factor": 4})}, save=True, name="both")])
    assert grids(plan) == {"both": None}
    plan = plan_of([Step(bin_pixels, channel="GFP"), Step(blur, channel="GFP", save=True), Step(project, save=True)])
    assert grids(plan) == {"blur": PixelGrid(2), "project": None}


def test_pixels_that_are_no_squares_have_none() -> None:
    assert grids(plan_of([Step(side_projection), Step(bin_pixels, save=True)])) == {"bin_pixels": None}


def test_labels_do_not_lie_over_an_image_of_other_pixels() -> None:
    steps = [Step(blur, save=True), Step((crop, BOX)), Step(segment, channel="DAPI", outputs=Labels("nuclei"))]
    assert next(result.over for result in plan_of(steps).results if result.kind == "labels") == "segment"


def test_tables_of_tables_know_the_pixels_they_were_made_from() -> None:
    plan = plan_of(
        [
            Step(bin_pixels, {"factor": 3}),
            Step(count, channel="DAPI", outputs=Table("objects")),
            Step(per_plate, inputs={"objects": "objects"}, outputs=Table("plate")),
        ]
    )
    assert grids(plan)["plate"] == PixelGrid(3)


def test_functions_that_know_the_pixel_size_are_done_again_for_other_pixels() -> None:
    def declared(factor: float) -> Any:
        @image(depth="same", grid=lambda _: PixelGrid(factor))
        def half(stack: Any) -> Any:
            return stack[:, ::2, ::2]

        return half

    def ways(last: Any) -> list[str]:
        steps = ([Step([declared(factor), last], channel="DAPI", outputs=Table("t"))] for factor in (1, 2))
        return [plan_of(one).stages[0].ways[-1] for one in steps]

    assert len(set(ways(count))) == 1
    assert len(set(ways(locate))) == 2


@pytest.mark.parametrize(
    ("tells", "why"),
    [(lambda params: PixelGrid(params["side"]), "KeyError('side')"), (lambda _: PixelGrid("2"), "TypeError")],
)
def test_a_declaration_that_fails_is_told_before_the_run(tells: Any, why: str) -> None:
    @image(grid=tells)
    def half(stack: Any, factor: int = 2) -> Any:
        return stack[:, ::factor, ::factor]

    problem = problem_of([Step(half)])
    assert "half does not tell from its parameters how its pixels lie" in problem
    assert why in problem


def test_a_plan_that_tells_of_no_grids_is_of_recorded_pixels() -> None:
    plan = plan_of([Step(blur, save=True), Step(segment, channel="DAPI", outputs=Labels("nuclei"))])
    told = json.loads(plan.to_json())
    for step in told["steps"]:
        del step["grids"]
    for result in told["results"]:
        del result["grid"]
    assert ExecutionPlan.from_json(json.dumps(told)) == plan
