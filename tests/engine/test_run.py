"""A run from its begin to its end: what it tells, how it is found again, what it saves, how it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from openhcs_jupyter import ImageOutput, Labels, Step, Table, image, table
from openhcs_jupyter.compiler import Selection
from openhcs_jupyter.engine import list_runs, load_run, run
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import RunFinished, RunStarted, UnitDone
from openhcs_jupyter.functions import bin_pixels, crop
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline import Step as PlainStep
from openhcs_jupyter.pipeline.contracts import Context
from openhcs_jupyter.repository.embedded.saved import Results, open_results
from openhcs_jupyter.streaming.views import view_of
from tests.engine.bench import LONGEST_S, Bench, fresh, journal, until
from tests.engine.functions import total

same = np.testing.assert_array_equal


def _transformations(results: Results, name: str) -> list[list[float]]:
    """Return scale and translation of the finest level of a field's result."""
    told = zarr.open_group(results.group(name, "A01", 2), mode="r").attrs["multiscales"][0]
    return [one[one["type"]] for one in told["datasets"][0]["coordinateTransformations"]]


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
        images = bench.plate.well("A01").fields[0].images  # type: ignore[union-attr]  # it is there
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

    def test_a_part_of_larger_pixels_is_saved_and_shown_where_it_was_recorded(self, bench: Bench) -> None:
        box = {"y": 4, "x": 2, "height": 15, "width": 30}
        started = bench.done(
            Step(lambda stack: stack, name="whole", save=True),
            Step([(crop, box), bin_pixels], name="part", save=True),
            Step(lambda stack: (stack, stack > 4000), name="last", channel="GFP", outputs=Labels("bright")),
            save=True,
        )
        results = open_results(Path(started.results_at or ""))
        (_, _, _, *steps), (_, _, _, *whole) = _transformations(results, "whole")
        assert steps == [0.65, 0.65]
        for name in ("part", "bright"):
            (_, _, _, *steps), (_, _, _, *corner) = _transformations(results, name)
            assert steps == [1.3, 1.3]
            # The centre of its first pixel lies between four recorded ones.
            np.testing.assert_allclose(np.subtract(corner, whole) / 0.65, [4.5, 2.5])
        layers = view_of(started.plan, started.record, bench.plate, started.folder).layers
        assert {(layer.result, layer.pixel_size_um, layer.corner_um) for layer in layers} == {
            ("whole", 0.65, (0.0, 0.0)), ("part", 1.3, (2.6, 1.3)), ("bright", 1.3, (2.6, 1.3)),
            ("last", 1.3, (2.6, 1.3)),
        }  # fmt: skip

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
