"""Whole runs on small plates: what they give equals what plain loops over the plate's pixels give."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from openhcs_jupyter import ImageOutput, Labels, Points, Step, Table, image, measure, table
from openhcs_jupyter.compiler import Selection
from openhcs_jupyter.engine import list_runs, load_run, run
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import RunFinished, RunStarted, UnitDone
from openhcs_jupyter.functions import gaussian_blur, max_projection
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline import Step as PlainStep
from openhcs_jupyter.pipeline.contracts import Context
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.saved import open_results
from tests.engine.bench import LONGEST_S, Bench, fresh, journal, until
from tests.engine.functions import Mean, total
from tests.plates import MadePlate

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


class TestOutputs:
    def test_labels_points_tables_and_images_of_one_function(self, bench: Bench) -> None:
        def found(stack: Any) -> Any:
            bright = stack > 4000
            _, y, x = np.nonzero(bright)
            return (
                stack,
                bright,
                {"y": y, "x": x, "value": stack[bright]},
                {"count": int(bright.sum())},
                stack.mean(0, dtype=np.float32),
            )

        outputs = (Labels("bright"), Points("spots"), Table("counts"), ImageOutput("mean"))
        started = bench.done(Step(found, channel="DAPI", outputs=outputs))
        points = started.table("spots")
        for well, field in bench.places():
            stack = bench.pixels(well, field, 0)
            labels = started.labels("bright", well=well, field=field)
            assert labels.dtype == np.int32
            same(labels[0, 0], stack > 4000)
            same(started.image("mean", well=well, field=field)[0, 0, 0], stack.mean(0, dtype=np.float32))
            here = points[(points["well"] == well) & (points["field"] == field)]
            _, y, x = np.nonzero(stack > 4000)
            same(here[["y", "x"]].to_numpy(), np.stack([y, x], 1))
        expected = [int((bench.pixels(*place, 0) > 4000).sum()) for place in bench.places()]
        assert started.table("counts")["count"].tolist() == expected

    def test_outputs_are_handed_to_later_steps(self, bench: Bench) -> None:
        def split(stack: Any) -> Any:
            return stack, (stack > 2000).astype(np.uint8), {"level": [float(stack.mean())]}

        def masked(stack: Any, labels: Any, levels: Any, context: Context) -> Any:
            assert list(levels["field"]) == [context.field]
            return np.where(labels > 0, levels["level"].iloc[0], stack)

        started = bench.done(
            Step(split, channel="DAPI", outputs=(Labels("bright"), Table("levels"))),
            Step(masked, channel="DAPI", inputs={"labels": "bright", "levels": "levels"}, save=True),
        )
        for well, field in bench.places():
            stack = bench.pixels(well, field, 0)
            same(started.image("masked", well=well, field=field)[0, 0], np.where(stack > 2000, stack.mean(), stack))

    def test_outputs_made_for_each_channel(self, bench: Bench) -> None:
        def bright(stack: Any) -> Any:
            return stack, (stack > 3000).astype(np.int32)

        @measure()
        def share(stack: Any, labels: Any) -> dict[str, float]:
            return {"share": float((labels > 0).mean())}

        started = bench.done(
            Step(bright, outputs=Labels("bright_areas"), save=True),
            Step(share, inputs={"labels": "bright_areas"}, outputs=Table("shares")),
        )
        expected = [(bench.pixels(*place, c) > 3000).mean() for place in bench.places() for c in range(2)]
        assert started.table("shares")["share"].tolist() == expected
        assert started.table("shares")["channel"].tolist() == ["DAPI", "GFP"] * 4

    def test_labels_of_single_slices_are_one_stack(self, bench: Bench) -> None:
        def bright(stack: Any) -> Any:
            return stack, stack[0] > stack[1], {"n": [1]}

        started = bench.done(Step(bright, stack="channel", outputs=(Labels("first_is_more"), Table("n")), save=True))
        labels = started.labels("first_is_more", well="A01", field=2)
        same(labels[0, 0], bench.pixels("A01", 2, 0) > bench.pixels("A01", 2, 1))
        assert started.table("n")["z"].tolist() == [1, 2, 3] * 4

    def test_a_table_keeps_the_columns_that_it_has(self, bench: Bench) -> None:
        @measure()
        def own(stack: Any) -> Any:
            return pd.DataFrame({"well": ["mine"], "value": [1]}, index=[77])

        found = bench.done(Step(own, channel="DAPI", outputs=Table("own"))).table("own")
        assert list(found.columns) == ["plate", "well", "field", "value"]
        assert found["well"].tolist() == ["mine"] * 4

    def test_empty_tables_keep_their_columns(self, bench: Bench) -> None:
        @measure()
        def nothing(stack: Any) -> Any:
            return pd.DataFrame({"area": np.zeros(0, np.int64)})

        @table(over="well")
        def medians(nothing: Any) -> Any:
            return nothing.groupby("well", as_index=False)["area"].median()

        started = bench.done(
            Step(nothing, channel="DAPI", outputs=Table("nothing")),
            Step(medians, inputs={"nothing": "nothing"}, outputs=Table("medians")),
        )
        assert len(started.table("nothing")) == 0
        assert list(started.table("nothing").columns) == ["plate", "well", "field", "area"]
        assert len(started.table("medians")) == 0


class TestContext:
    def test_a_stack_along_z(self, bench: Bench) -> None:
        @measure()
        def told(stack: Any, context: Context) -> dict[str, Any]:
            return {
                "name": context.well,
                "number": context.field,
                "colour": context.channel,
                "slices": str(context.z),
                "pixel": context.pixel_size_um,
                "step": context.z_step_um,
                "y": context.positions_um[0][0],
                "x": context.positions_um[0][1],
            }

        found = bench.done(Step(told, outputs=Table("told"))).table("told")
        assert found["name"].tolist() == found["well"].tolist()
        assert found["number"].tolist() == found["field"].tolist()
        assert found["colour"].tolist() == found["channel"].tolist()
        assert set(found["slices"]) == {"(0, 1, 2)"}
        assert set(found["pixel"]) == {0.65}
        assert set(found["step"]) == {2.0}
        fields = {(well.name, field.number): field.position_um for well, field in bench.plate.fields()}
        for row in found.itertuples():
            assert (row.y, row.x) == fields[row.well, row.field]

    def test_stacks_along_channels_and_fields(self, bench: Bench) -> None:
        @measure(stack="channel")
        def channels(stack: Any, context: Context) -> dict[str, Any]:
            assert context.channel is None
            return {"told": f"{context.field} {context.channels} {context.z}"}

        @measure(stack="field")
        def fields(stack: Any, context: Context) -> dict[str, Any]:
            assert context.field is None
            return {"told": f"{context.channel} {len(context.positions_um)}"}

        started = bench.done(Step(channels, outputs=Table("a")), Step(fields, outputs=Table("b")))
        assert set(started.table("a")["told"]) == {
            f"{field} ('DAPI', 'GFP') ({z},)" for field in (1, 2) for z in range(3)
        }
        assert set(started.table("b")["told"]) == {"DAPI 2", "GFP 2"}
        assert len(started.table("b")) == 2 * 2 * 3


class TestTimePoints:
    @pytest.fixture
    def timed(self, make_plate: Callable[..., MadePlate], repository: EmbeddedRepository) -> Bench:
        made = make_plate(fields=1, z=2)
        shutil.copytree(made.folder / "TimePoint_1", made.folder / "TimePoint_2")
        for file in (made.folder / "TimePoint_2").rglob("*.tif"):
            with tifffile.TiffFile(file) as tiff:
                pixels, text = tiff.asarray(), tiff.pages[0].description  # type: ignore[union-attr]
            tifffile.imwrite(file, pixels + 1000, description=text, metadata=None)
        plate = repository.plate(repository.import_plate(made.folder).id)
        return Bench(repository, made, plate, made.folder.parent)

    def test_each_time_point_is_a_stack(self, timed: Bench) -> None:
        started = timed.done(
            Step(lambda stack: stack * 2, name="doubled", save=True), Step(total, outputs=Table("totals"))
        )
        for t in range(2):
            same(started.image("doubled", well="A01")[t, 1], (timed.pixels("A01", 1, 1) + 1000 * t) * 2)
        assert started.table("totals")["t"].tolist() == [1, 1, 2, 2] * 2

    def test_stacks_along_time(self, timed: Bench) -> None:
        @image(stack="t", depth="one")
        def later_minus_earlier(stack: Any) -> Any:
            return (stack[1] - stack[0])[None]

        started = timed.done(Step(later_minus_earlier, save=True))
        pixels = started.image(well="B02")
        assert pixels.shape == (1, 2, 2, 24, 32)
        assert (pixels == 1000).all()

    def test_time_points_of_different_shapes_are_an_error(self, timed: Bench) -> None:
        def uneven(stack: Any, context: Context) -> Any:
            return stack[: 1 + (context.t or 0)]

        started = timed.run(Step(uneven, channel="DAPI", save=True))
        assert {failure.step for failure in started.failures} == {"uneven"}
        assert "differ from one time point to another" in started.failures[0].message


class TestTheRun:
    def test_events_tell_its_story(self, bench: Bench) -> None:
        started = bench.start(Step(total, outputs=Table("totals")))
        events = list(started.events())
        assert isinstance(events[0], RunStarted)
        assert isinstance(events[-1], RunFinished)
        assert events[-1].status == "done", started.summary()
        done = [event for event in events if isinstance(event, UnitDone)]
        assert sorted(event.unit for event in done) == [0, 1, 2, 3]
        assert {event.bytes_read for event in done} == {2 * 3 * 24 * 32 * 2}
        assert [event.time for event in events] == sorted(event.time for event in events)
        progress = started.progress
        assert (progress.stages[0].done, progress.stages[0].total) == (4, 4)
        assert progress.bytes_read == 4 * 2 * 3 * 24 * 32 * 2

    def test_progress_grows(self, bench: Bench) -> None:
        gates = bench.folder / "gates"
        gates.mkdir()

        def gated(stack: Any, context: Context) -> Any:
            import time

            while not (gates / f"{context.well}{context.field}").exists():
                time.sleep(0.002)
            return stack

        started = bench.start(Step(gated, channel="DAPI"))
        assert started.status == "running"
        assert not started.wait(0.01)
        for count, (well, field) in enumerate(bench.places(), 1):
            (gates / f"{well}{field}").touch()
            until(lambda count=count: started.progress.stages[0].done == count, f"{count} units")
            assert started.image(well=well, field=field).shape == (1, 1, 3, 24, 32)
        assert started.wait(LONGEST_S)
        assert started.progress.remaining_s is None

    def test_a_run_is_found_again(self, bench: Bench) -> None:
        first = bench.done(Step(total, outputs=Table("totals")), name="first")
        second = bench.done(Step(total, outputs=Table("totals")), name="second")
        assert [(s.id, s.name, s.status, s.done) for s in list_runs(bench.repository)] == [
            (second.id, "second", "done", 4),
            (first.id, "first", "done", 4),
        ]
        for key in (first.id, "first"):
            again = load_run(bench.repository, key)
            assert (again.id, again.status, again.record) == (first.id, "done", first.record)
            pd.testing.assert_frame_equal(again.table("totals"), first.table("totals"))
        with pytest.raises(RunError, match="third"):
            load_run(bench.repository, "third")

    def test_a_run_is_followed_from_elsewhere_while_it_runs(self, bench: Bench) -> None:
        gate = bench.folder / "gate"

        def gated(stack: Any) -> Any:
            import time

            while not gate.exists():
                time.sleep(0.002)
            return stack

        started = bench.start(Step(gated, channel="DAPI"))
        until(lambda: started.folder.joinpath("journal.jsonl").exists(), "the journal")
        other = load_run(bench.repository, started.id)
        assert other.status == "running"
        events: Iterator[Any] = other.events()
        assert isinstance(next(events), RunStarted)
        gate.touch()
        assert isinstance(list(events)[-1], RunFinished)
        assert other.status == "done"
        same(other.image(well="A01")[0, 0], bench.pixels("A01", 1, 0))

    def test_a_run_is_cancelled_from_elsewhere_and_the_wish_does_not_outlive_it(self, bench: Bench) -> None:
        gate = bench.folder / "gate"

        def gated(stack: Any) -> Any:
            import time

            while not gate.exists():
                time.sleep(0.002)
            return stack

        started = bench.start(Step(gated, channel="DAPI"))
        other = load_run(bench.repository, started.id)
        other.cancel()
        assert other.wait(LONGEST_S)
        assert (started.status, other.status) == ("cancelled", "cancelled")
        other.cancel()  # of a run that has ended: nothing to do
        gate.touch()
        again = bench.run(Step(gated, channel="DAPI"), run_options={"resume": started.id})
        assert (again.id, again.status) == (started.id, "done")

    def test_the_list_of_runs_follows_a_run_that_goes_on(self, bench: Bench) -> None:
        def brittle(stack: Any, broken: bool = True) -> Any:
            if broken:
                raise ValueError("brittle")
            return stack

        started = bench.run(Step(brittle, name="step"))
        for _ in range(2):  # from the journal, then from what was kept of it
            assert [(s.status, s.units, s.done, s.failed) for s in list_runs(bench.repository)] == [("failed", 4, 0, 4)]
        bench.run(Step(brittle, {"broken": False}, name="step"), run_options={"resume": started.id})
        for _ in range(2):
            assert [(s.status, s.units, s.done, s.failed) for s in list_runs(bench.repository)] == [("done", 4, 4, 0)]

    def test_the_record_tells_what_was_done_to_what(self, bench: Bench) -> None:
        pipeline = Pipeline([PlainStep(total, outputs=Table("totals"))], "told", "the cell", "Cell In[3]")
        from openhcs_jupyter.compiler import compile
        from tests.engine.bench import topology

        plan = compile(pipeline, bench.plate, topology(), Selection(wells=("A01",)))
        record = run(plan, options={"wells": ["A01"]}).result().record
        assert (record.name, record.source, record.source_name) == ("told", "the cell", "Cell In[3]")
        assert record.options == {"wells": ["A01"]}
        assert record.plate_name == bench.plate.name
        images = bench.plate.well("A01").fields[0].images  # type: ignore[union-attr]
        assert record.inputs[images[0].id] == images[0].version
        assert len(record.inputs) == 2
        assert record.versions["numpy"] == np.__version__

    def test_results_that_do_not_exist_are_errors_that_name_those_that_do(self, bench: Bench) -> None:
        started = bench.done(Step(total, outputs=Table("totals")), Step(lambda s: s, name="kept", save=True))
        with pytest.raises(RunError, match=r"(?s)'totlas'.*totals"):
            started.table("totlas")
        with pytest.raises(RunError, match="kept"):
            started.image("kpet", well="A01")
        with pytest.raises(RunError, match="name the well"):
            started.image("kept")
        with pytest.raises(RunError, match="C07 field 1"):
            started.image("kept", well="C07")
        with pytest.raises(RunError, match="A01 field 9"):
            started.image("kept", well="A01", field=9)
        with pytest.raises(RunError, match="labels 'kept'"):
            started.labels("kept", well="A01")

    def test_results_of_a_stored_run_cannot_be_changed_by_accident(self, bench: Bench) -> None:
        started = bench.done(Step(lambda s: s, channel="DAPI", name="kept", save=True))
        with pytest.raises(ValueError, match="read-only"):
            started.image("kept", well="A01")[0, 0, 0] = 0

    def test_saved_results_are_in_the_repository(self, bench: Bench) -> None:
        def found(stack: Any) -> Any:
            return stack, (stack > 2000).astype(np.int32), {"n": [1]}

        started = bench.done(
            Step(found, channel="DAPI", outputs=(Labels("bright"), Table("counts")), save=True), save=True
        )
        assert started.results_at is not None
        where = Path(started.results_at)
        assert where.is_dir()
        names = {path.name for path in where.rglob("*")}
        assert {"provenance.json", "plan.json", "bright"} <= names
        assert any(name.startswith("counts") and name.endswith(".parquet") for name in names)
        (parquet,) = where.rglob("counts*.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(parquet), started.table("counts"), check_dtype=False)

    def test_images_of_fields_of_joined_wells_and_of_the_plate_are_saved_in_one_run(self, bench: Bench) -> None:
        @image(stack="field", depth="one")
        def montage(stack: Any) -> Any:
            return np.concatenate(list(stack), axis=1)[None]

        class Brightest:
            def init(self) -> Any:
                return None

            def update(self, state: Any, stack: Any) -> Any:
                return stack.max(0) if state is None else np.maximum(state, stack.max(0))

            def merge(self, state: Any, other: Any) -> Any:
                return np.maximum(state, other)

            def finish(self, state: Any) -> Any:
                return state

        started = bench.done(
            Step(lambda stack: stack + 1, name="up", save=True),
            Step(Brightest, channel="GFP", outputs=ImageOutput("brightest")),
            Step(montage, save=True),
            save=True,
        )
        results = open_results(Path(started.results_at or ""))
        for name, well, field in [("up", "B02", 2), ("montage", "A01", 1), ("brightest", None, 1)]:
            there = started.image(name, well=well, field=field)
            saved = zarr.open_array(results.group(name, well, field) / "0", mode="r")
            same(saved[...], there)
        everything = np.stack([bench.pixels(well, field, 1) + 1 for well, field in bench.places()])
        same(started.image("brightest")[0, 0, 0], everything.max((0, 1)))
        scale = zarr.open_group(results.group("brightest"), mode="r").attrs["multiscales"][0]["datasets"][0]
        assert scale["coordinateTransformations"][0]["scale"][-2:] == [0.65, 0.65]

    def test_a_run_that_saves_nothing_has_no_place(self, bench: Bench) -> None:
        assert bench.done(Step(total, outputs=Table("totals"))).results_at is None

    def test_failures_name_well_field_step_and_line(self, bench: Bench) -> None:
        def picky(stack: Any, context: Context) -> Any:
            if context.well == "B02":
                raise ValueError(f"I do not like {context.well}")
            return stack

        step = Step(picky, channel="DAPI")
        started = bench.run(Step(lambda s: s, name="before"), step)
        assert started.status == "failed"
        assert [(f.well, f.field, f.step, f.line) for f in sorted(started.failures, key=lambda f: f.field or 0)] == [
            ("B02", 1, "picky", step.line),
            ("B02", 2, "picky", step.line),
        ]
        assert "ValueError: I do not like B02" in started.failures[0].message
        with pytest.raises(RunError) as caught:
            started.result()
        for part in ("B02 field 1", "picky", f"line {step.line}", "I do not like B02"):
            assert part in str(caught.value)
        same(started.image(well="A01", field=2)[0, 0], bench.pixels("A01", 2, 0))
        with pytest.raises(RunError, match="B02 field 1"):
            started.image(well="B02")

    def test_what_needs_a_failed_unit_is_left_out_or_takes_the_others(self, bench: Bench) -> None:
        def picky(stack: Any, context: Context) -> Any:
            if (context.well, context.field) == ("B02", 1):
                raise ValueError("no")
            return stack, (stack > 0), {"n": [context.field]}

        @table(over="well")
        def wells(counts: Any) -> Any:
            return {"fields": len(counts)}

        started = bench.run(
            Step(picky, channel="DAPI", outputs=(Labels("any"), Table("counts"))),
            Step(wells, inputs={"counts": "counts"}, outputs=Table("wells")),
            Step(lambda stack: stack, stack="field", name="together", channel="DAPI", save=True),
        )
        assert len(started.failures) == 1, "those that were left out are no failures of their own"
        assert started.table("wells")["fields"].tolist() == [2, 1]
        same(started.image("together", well="A01")[0, 0], bench.pixels("A01", 1, 0))
        with pytest.raises(RunError, match="B02 field 2"):
            started.image("together", well="B02", field=2)
        skipped = [event for event in journal(started) if getattr(event, "because", None) is not None]
        assert [(event.well, event.message) for event in skipped] == [("B02", "left out, as B02 field 1 failed")]

    def test_on_error_stop_ends_the_run(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(fields=20, z=1, size=(8, 8))

        def picky(stack: Any, context: Context) -> Any:
            if context.field == 2:
                raise ValueError("stop here")
            return stack

        started = bench.run(Step(picky, channel="DAPI"), run_options={"on_error": "stop"}, workers=1)
        assert started.status == "failed"
        assert "stop here" in started.message
        assert len(fresh(started)) < 20
        assert len(started.failures) == 1
