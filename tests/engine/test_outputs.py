"""What functions are told and what they put out: labels, points, tables, images, of stacks along any component."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from openhcs_jupyter import ImageOutput, Labels, Points, Step, Table, image, measure, table
from openhcs_jupyter.functions import bin_pixels
from openhcs_jupyter.pipeline.contracts import Context
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import Bench
from tests.engine.functions import total
from tests.plates import MadePlate

same = np.testing.assert_array_equal


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

    def test_the_size_of_pixels_that_earlier_functions_have_made(self, bench: Bench) -> None:
        @measure()
        def told(stack: Any, context: Context) -> dict[str, Any]:
            return {"channel": context.channel, "pixel": context.pixel_size_um}

        @measure(stack="channel")
        def together(stack: Any, context: Context) -> dict[str, Any]:
            return {"pixel": context.pixel_size_um}

        @table(over="well")
        def later(told: Any, context: Context) -> Any:
            return told.groupby("well", as_index=False)["pixel"].max().assign(own=context.pixel_size_um)

        done = bench.done(
            Step(
                {"DAPI": [bin_pixels, told], "GFP": [(bin_pixels, {"factor": 4}), told]},
                name="chains",
                outputs=Table("first"),
            ),
            Step(told, channel="GFP", outputs=Table("second")),
            Step(bin_pixels, channel="DAPI"),
            Step(together, outputs=Table("third")),
            Step(later, inputs={"told": "second"}, outputs=Table("fourth")),
        )
        first = done.table("first")
        assert set(zip(first["channel"], first["pixel"], strict=True)) == {("DAPI", 1.3), ("GFP", 2.6)}
        assert set(done.table("second")["pixel"]) == {2.6}
        assert set(done.table("third")["pixel"]) == {2.6}
        assert set(done.table("fourth")["own"]) == {2.6}

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
                pixels, text = tiff.asarray(), tiff.pages[0].description  # type: ignore[union-attr]  # it is there
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
