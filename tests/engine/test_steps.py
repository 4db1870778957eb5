"""What steps do to a plate: it equals what plain loops over the pixels give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter import ImageOutput, Labels, Step, Table, image, measure, table
from openhcs_jupyter.compiler import Selection
from openhcs_jupyter.functions import gaussian_blur, max_projection
from tests.engine.bench import Bench
from tests.engine.functions import Mean, total

same = np.testing.assert_array_equal


class TestFunctions:
    def test_an_undecorated_image_function(self, bench: Bench) -> None:
        def inverted(stack: Any) -> Any:
            return 4095 - stack

        started = bench.done(Step(inverted, save=True))
        for well, field in bench.places():
            pixels = started.image("inverted", well=well, field=field)
            assert pixels.shape == (1, 2, 3, 24, 32)
            assert pixels.dtype == np.uint16
            for c in range(2):
                same(pixels[0, c], 4095 - bench.pixels(well, field, c))

    def test_parameters_reach_the_function(self, bench: Bench) -> None:
        def scaled(stack: Any, factor: int, offset: int = 0) -> Any:
            return stack * factor + offset

        started = bench.done(Step(scaled, {"factor": 3, "offset": 2}, channel="GFP"))
        same(started.image(well="B02", field=2)[0, 0], bench.pixels("B02", 2, 1) * 3 + 2)

    def test_a_measure_lets_its_image_pass(self, bench: Bench) -> None:
        started = bench.done(Step(total, outputs=Table("totals")), Step(lambda stack: stack, name="after", save=True))
        found = started.table("totals")
        expected = [
            (bench.plate.name, well, field, channel, int(bench.pixels(well, field, c).sum(dtype=np.int64)))
            for well, field in bench.places()
            for c, channel in enumerate(("DAPI", "GFP"))
        ]
        assert list(found.columns) == ["plate", "well", "field", "channel", "total"]
        assert [tuple(row) for row in found.itertuples(index=False)] == expected
        same(started.image("after", well="A01", field=2)[0, 1], bench.pixels("A01", 2, 1))

    def test_an_undecorated_measure_is_known_by_what_it_returns(self, bench: Bench) -> None:
        def measured(stack: Any) -> Any:
            return pd.DataFrame({"max": stack.max(axis=(1, 2))})

        started = bench.done(Step(measured, channel="DAPI", outputs=Table("maxima")))
        expected = [plane.max() for place in bench.places() for plane in bench.pixels(*place, 0)]
        assert started.table("maxima")["max"].tolist() == expected

    @pytest.mark.parametrize(("over", "rows"), [("field", 4), ("well", 2), ("plate", 1)])
    def test_tables_over_fields_wells_and_the_plate(self, bench: Bench, over: Any, rows: int) -> None:
        def summed(totals: Any) -> dict[str, int]:
            return {"sum": int(totals["total"].sum()), "rows": len(totals)}

        started = bench.done(
            Step(total, channel="DAPI", outputs=Table("totals")),
            Step(table(over=over)(summed), inputs={"totals": "totals"}, outputs=Table("sums")),
        )
        found = started.table("sums")
        totals = started.table("totals")
        assert len(found) == rows
        place = {"field": ["plate", "well", "field"], "well": ["plate", "well"], "plate": ["plate"]}[over]
        assert list(found.columns) == [*place, "sum", "rows"]
        grouped = totals.groupby(place, sort=False)["total"]
        assert found["sum"].tolist() == grouped.sum().tolist()
        assert found["rows"].tolist() == grouped.size().tolist()

    def test_a_reducer_over_more_units_than_are_merged_at_a_time(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(wells=("A01", "A02", "B01"), fields=12, z=2, size=(6, 5))
        started = bench.done(
            Step(Mean, {"scale": 2.0}, outputs=(ImageOutput("mean"), Table("order"))), workers=3, name="means"
        )
        kinds = [(stage.kind, stage.units) for stage in started.plan.stages]
        assert kinds == [("compute", 36), ("merge", 3), ("finish", 1)]
        pixels = started.image("mean")
        assert pixels.shape == (1, 2, 1, 6, 5)
        order = started.table("order")
        for c, channel in enumerate(("DAPI", "GFP")):
            stacks = [bench.pixels(well, field, c) for well, field in bench.places()]
            np.testing.assert_allclose(pixels[0, c, 0], 2 * np.concatenate(stacks).mean(0), rtol=1e-12)
            assert order[order["channel"] == channel]["first"].tolist() == [stack[0, 0, 0] for stack in stacks]

    def test_what_a_reducer_makes_is_there_for_later_steps(self, bench: Bench) -> None:
        def corrected(stack: Any, mean: Any) -> Any:
            return (stack - mean).astype(np.float32)

        started = bench.done(
            Step(Mean, channel="DAPI", outputs=(ImageOutput("mean"), Table("order"))),
            Step(corrected, channel="DAPI", inputs={"mean": "mean"}, save=True),
        )
        mean = np.concatenate([bench.pixels(*place, 0) for place in bench.places()]).mean(0)
        for well, field in bench.places():
            found = started.image("corrected", well=well, field=field)
            np.testing.assert_allclose(found[0, 0], bench.pixels(well, field, 0) - mean, rtol=1e-5, atol=1e-2)

    def test_a_reducer_whose_table_tells_its_own_channel(self, bench: Bench) -> None:
        class Count(Mean):
            def finish(self, state: Any) -> Any:
                return pd.DataFrame({"channel": ["mine"], "plate": ["my plate"], "planes": [state["planes"]]})

        found = bench.done(Step(Count, outputs=Table("counts"))).table("counts")
        assert found["planes"].tolist() == [12, 12]
        assert found["channel"].tolist() == ["mine", "mine"]


class TestSteps:
    def test_a_chain(self, bench: Bench) -> None:
        def add(stack: Any, value: int) -> Any:
            return stack + value

        def double(stack: Any) -> Any:
            return stack * 2

        started = bench.done(Step([(add, {"value": 1}), double, (add, {"value": 5})], channel="DAPI", name="chain"))
        same(started.image("chain", well="A01")[0, 0], (bench.pixels("A01", 1, 0) + 1) * 2 + 5)

    def test_functions_by_channel(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(channels=("DAPI", "GFP", "RFP"))

        def halved(stack: Any) -> Any:
            return stack // 2

        def up(stack: Any, by: int = 1) -> Any:
            return stack + by

        started = bench.done(
            Step({"DAPI": [halved, up], "RFP": (up, {"by": 9})}, name="by_channel"),
            Step(lambda stack: stack, name="all", save=True),
        )
        pixels = started.image("all", well="B02", field=2)[0]
        same(pixels[0], bench.pixels("B02", 2, 0) // 2 + 1)
        same(pixels[1], bench.pixels("B02", 2, 1))
        same(pixels[2], bench.pixels("B02", 2, 2) + 9)

    def test_saved_images_are_as_they_were_at_their_step(self, bench: Bench) -> None:
        started = bench.done(
            Step(lambda stack: stack + 1, name="first", save=True),
            Step(lambda stack: stack * 0, name="second", save=True),
        )
        same(started.image("first", well="A01")[0, 1], bench.pixels("A01", 1, 1) + 1)
        assert not started.image("second", well="A01").any()

    def test_a_step_that_changes_the_number_of_slices(self, bench: Bench) -> None:
        started = bench.done(
            Step(max_projection, channel="DAPI", save=True),
            Step(lambda stack: np.concatenate([stack, stack]), channel="GFP", name="doubled"),
            Step(lambda stack: stack, name="both", save=True),
        )
        projected = bench.pixels("A01", 2, 0).max(0)
        same(started.image("max_projection", well="A01", field=2)[0, 0], projected[None])
        both = started.image("both", well="A01", field=2)
        assert both.shape == (1, 2, 6, 24, 32)
        same(both[0, 0, 0], projected)
        assert not both[0, 0, 1:].any(), "slices that a channel has not are filled with zeros"
        same(both[0, 1, 3:], bench.pixels("A01", 2, 1))

    def test_stacks_along_channels(self, bench: Bench) -> None:
        def swapped(stack: Any) -> Any:
            assert len(stack) == 2
            return stack[::-1]

        started = bench.done(Step(swapped, stack="channel", save=True))
        pixels = started.image("swapped", well="B02")[0]
        same(pixels[0], bench.pixels("B02", 1, 1))
        same(pixels[1], bench.pixels("B02", 1, 0))

    def test_channels_joined_into_one(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(channels=("DAPI", "GFP", "RFP"))

        @image(stack="channel", depth="one")
        def summed(stack: Any) -> Any:
            return stack.sum(0, dtype=np.uint32)[None]

        started = bench.done(
            Step(summed, channel=["DAPI", "RFP"], save=True), Step(lambda stack: stack, name="all", save=True)
        )
        expected = bench.pixels("A01", 1, 0).astype(np.uint32) + bench.pixels("A01", 1, 2)
        same(started.image("summed", well="A01")[0, 0], expected)
        pixels = started.image("all", well="A01")[0]
        same(pixels[0], bench.pixels("A01", 1, 1))
        same(pixels[1], expected)

    def test_stacks_along_fields(self, bench: Bench) -> None:
        def centred(stack: Any) -> Any:
            assert len(stack) == 2
            return (stack - stack.mean(0)).astype(np.float32)

        started = bench.done(Step(lambda stack: stack + 1, name="up"), Step(centred, stack="field", save=True))
        for well in bench.made.wells:
            stacks = np.stack([bench.pixels(well, field, 1) + 1 for field in (1, 2)])
            expected = (stacks - stacks.mean(0)).astype(np.float32)
            for field in (1, 2):
                same(started.image("centred", well=well, field=field)[0, 1], expected[field - 1])

    def test_fields_joined_into_one(self, bench: Bench) -> None:
        @image(stack="field", depth="one")
        def montage(stack: Any) -> Any:
            return np.concatenate(list(stack), axis=1)[None]

        started = bench.done(
            Step(montage, save=True), Step(total, channel="GFP", outputs=Table("totals")), save=True, name="montages"
        )
        for well in bench.made.wells:
            expected = np.concatenate([bench.pixels(well, 1, 1), bench.pixels(well, 2, 1)], axis=2)
            same(started.image("montage", well=well)[0, 1], expected)
        assert list(started.table("totals").columns) == ["plate", "well", "total"]

    def test_steps_go_on_with_the_images_of_an_earlier_stage(self, bench: Bench) -> None:
        def up(stack: Any) -> Any:
            return stack + 1

        def below_plate_mean(stack: Any, means: Any) -> Any:
            assert len(means) == 4
            return stack, (stack < means["mean"].mean())

        @measure()
        def mean(stack: Any) -> dict[str, float]:
            return {"mean": float(stack.mean())}

        @table(over="plate")
        def all_means(means: Any) -> Any:
            return means[["mean"]]

        started = bench.done(
            Step(up, channel="DAPI"),
            Step(mean, channel="DAPI", outputs=Table("means")),
            Step(all_means, inputs={"means": "means"}, outputs=Table("plate_means")),
            Step(below_plate_mean, channel="DAPI", inputs={"means": "plate_means"}, outputs=Labels("dark"), save=True),
        )
        assert started.plan.stages[0].carries
        threshold = np.mean([(bench.pixels(*place, 0) + 1).mean() for place in bench.places()])
        for well, field in bench.places():
            stack = bench.pixels(well, field, 0) + 1
            same(started.image("below_plate_mean", well=well, field=field)[0, 0], stack)
            same(started.labels("dark", well=well, field=field)[0, 0], stack < threshold)

    def test_channels_that_no_step_takes_go_on_to_a_later_stage(self, bench: Bench) -> None:
        started = bench.done(
            Step(Mean, channel="DAPI", outputs=(ImageOutput("mean"), Table("order"))),
            Step(
                lambda stack, mean: stack + np.zeros_like(mean, np.uint16),
                channel="GFP",
                inputs={"mean": "mean"},
                name="other",
                save=True,
            ),
        )
        same(started.image("other", well="B02", field=2)[0, 0], bench.pixels("B02", 2, 1))

    def test_a_selection_is_all_that_is_done(self, bench: Bench) -> None:
        selection = Selection(wells=("B02",), fields=(2,), channels=("GFP",))
        started = bench.done(Step(total, outputs=Table("totals")), selection=selection)
        assert started.table("totals")[["well", "field"]].to_numpy().tolist() == [["B02", 2]]
        assert started.table("totals")["total"].tolist() == [int(bench.pixels("B02", 2, 1).sum(dtype=np.int64))]

    def test_standard_functions(self, bench: Bench) -> None:
        started = bench.done(Step(gaussian_blur, {"sigma": 1.0}, channel="DAPI", save=True))
        same(started.image(well="A01")[0, 0], gaussian_blur(bench.pixels("A01", 1, 0), sigma=1.0))
