"""A changed step starts from what stands before it, and the results are those of a run that started from nothing."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter.engine import Run
from openhcs_jupyter.engine.cache import ResultCache
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.pipeline import ImageOutput, Labels, Step, Table, image, measure, table
from tests.engine.bench import Bench, contents, journal, lines
from tests.engine.functions import Mean, note

LONG_S = 0.006
"""A step that takes this long is worth its small images."""


def slow(log: Path, name: str) -> None:
    note(log, name)
    time.sleep(LONG_S)


def add(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return stack + by


def pass_on(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    """Change every second channel or field only: those with an odd first pixel."""
    slow(log, name)
    return stack + by if stack[0, 0, 0] % 2 else stack


@image(stack="channel", depth="one")
def mix(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return stack.max(0, keepdims=True) + by


@image(stack="field")
def over_fields(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return stack - stack.min(0) + by


@image(stack="field", depth="one")
def join_fields(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return stack.mean(0, keepdims=True).astype(np.float32) + by


def project(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return stack.max(0, keepdims=True) + by


def label(stack: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return stack, (stack > 2000 + by).astype(np.int32)


@measure()
def sizes(stack: Any, labels: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return {"pixels": int((labels > 0).sum()) + by, "bright": float(stack[labels > 0].mean())}


@table()
def doubled(objects: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return pd.DataFrame({"double": objects["pixels"].to_numpy() * 2 + by})


@image()
def corrected(stack: Any, mean: Any, log: Path, name: str, by: int = 1) -> Any:
    slow(log, name)
    return (stack - mean[0]).astype(np.float32) + by


NUCLEI = {"outputs": Labels("nuclei"), "channel": "DAPI"}
SIZES = {"inputs": {"labels": "nuclei"}, "outputs": Table("objects"), "channel": "DAPI"}
PIPELINES: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "along z": [(add, {}), (add, {"channel": "DAPI"}), (pass_on, {}), (project, {"save": True}), (add, {})],
    "labels and tables": [
        (add, {}),
        (project, {}),
        (label, NUCLEI),
        (sizes, SIZES),
        (doubled, {"inputs": {"objects": "objects"}, "outputs": Table("doubles")}),
    ],
    "channels joined": [(project, {}), (mix, {}), (add, {}), (add, {"save": True})],
    "fields together": [(project, {"channel": "GFP"}), (over_fields, {"channel": "GFP"}), (add, {}), (add, {})],
    "fields joined": [(project, {}), (join_fields, {}), (add, {}), (label, {"outputs": Labels("all"), "save": True})],
    "images between stages": [
        (project, {}),
        (Mean, {"outputs": [ImageOutput("mean"), Table("order")], "channel": "DAPI"}),
        (corrected, {"inputs": {"mean": "mean"}, "channel": "DAPI", "save": True}),
        (add, {"channel": "DAPI", "save": True}),
    ],
}


def steps_of(what: list[tuple[Any, dict[str, Any]]], log: Path, changed: int | None = None) -> list[Step]:
    made = []
    for number, (function, how) in enumerate(what):
        name = f"step_{number}"
        if function is Mean:
            made.append(Step(Mean, name=name, **how))
            continue
        params = {"log": log, "name": name, "by": 7 if number == changed else 1}
        made.append(Step(function, params, name=name, **how))
    return made


def calls(log: Path) -> Counter[str]:
    counted = Counter(lines(log))
    log.unlink(missing_ok=True)
    return counted


@pytest.mark.parametrize("kind", PIPELINES)
def test_every_step_may_change(bench: Bench, kind: str) -> None:
    what, log = PIPELINES[kind], bench.folder / "log"
    bench.done(*steps_of(what, log))
    first = calls(log)
    for changed in [number for number, (function, _) in enumerate(what) if function is not Mean]:
        again = bench.done(*steps_of(what, log, changed))
        done = calls(log)
        anew = bench.done(*steps_of(what, log, changed), run_options={"force": True})
        assert contents(again) == contents(anew)
        assert done[f"step_{changed}"] == first[f"step_{changed}"]
        if kind != "images between stages":
            assert not [name for name in done if name < f"step_{changed}"], "what stands before it was done again"
        calls(log)


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_step_is_added_at_the_end_and_taken_away_again(bench: Bench, kind: str) -> None:
    what, log = PIPELINES[kind], bench.folder / "log"
    longer = (
        [*what, (add, {"channel": what[-1][1].get("channel")})] if kind != "channels joined" else [*what, (add, {})]
    )
    bench.done(*steps_of(what, log))
    calls(log)
    again = bench.done(*steps_of(longer, log))
    # A table of the plate is made of units that have become others.
    assert set(calls(log)) - {"step_4" if kind == "labels and tables" else ""} == {f"step_{len(what)}"}
    assert contents(again) == contents(bench.done(*steps_of(longer, log), run_options={"force": True}))
    calls(log)
    bench.done(*steps_of(what, log))
    assert not calls(log)


@pytest.mark.parametrize("kind", PIPELINES)
def test_runs_that_go_on_from_runs_that_went_on(bench: Bench, kind: str) -> None:
    what, log = PIPELINES[kind], bench.folder / "log"
    end = len(what) - 1
    bench.done(*steps_of(what, log))
    bench.done(*steps_of(what, log, end))
    calls(log)
    # Behind a last step that itself started from what another run left.
    longer = [*steps_of(what, log, end), *steps_of([*what, (add, {"save": True})], log)[-1:]]
    again = bench.done(*longer)
    if kind != "labels and tables":
        assert set(calls(log)) == {f"step_{len(what)}"}
    assert contents(again) == contents(bench.done(*longer, run_options={"force": True}))


def ended(started: Run) -> RunStatus:
    started.wait()
    return started.status


def steps_kept(started: Run) -> dict[tuple[str | None, int | None], int]:
    """By well and field: how many steps a run found done by another."""
    units = started.plan.units
    done = [event for event in journal(started) if isinstance(event, UnitDone)]
    return {(units[event.unit].well, units[event.unit].field): event.steps_kept for event in done}


class TestOneChange:
    what = PIPELINES["labels and tables"]

    def test_a_step_that_failed_is_mended(self, bench: Bench) -> None:
        log = bench.folder / "log"

        def brittle(stack: Any, labels: Any, broken: bool) -> Any:
            if broken:
                raise ValueError("brittle")
            return {"pixels": int((labels > 0).sum())}

        steps = steps_of(self.what[:3], log)
        measured = [Step(measure()(brittle), {"broken": broken}, name="last", **SIZES) for broken in (True, False)]
        assert bench.run(*steps, measured[0]).status == "failed"
        assert set(calls(log)) == {"step_0", "step_1", "step_2"}
        mended = bench.done(*steps, measured[1])
        assert not calls(log)
        assert contents(mended) == contents(bench.done(*steps, measured[1], run_options={"force": True}))

    def test_a_unit_tells_how_many_steps_it_did_not_do(self, bench: Bench) -> None:
        log = bench.folder / "log"
        first = bench.done(*steps_of(self.what, log))
        assert set(steps_kept(first).values()) == {0}
        again = bench.done(*steps_of(self.what, log, 3))
        assert steps_kept(again) == {**dict.fromkeys(bench.places(), 3), (None, None): 0}

    def test_only_wells_that_changed_are_done_again(self, bench: Bench) -> None:
        log = bench.folder / "log"
        bench.done(*steps_of(self.what, log))
        calls(log)
        rng = np.random.default_rng(5)
        file = bench.made.file("B02", 1, 0, 0)
        bench.made.write("B02", 1, 0, 0)
        import tifffile

        tifffile.imwrite(file, rng.integers(0, 4096, bench.made.size).astype(bench.made.dtype), metadata=None)
        plate = bench.repository.plate(bench.repository.import_plate(bench.made.folder).id)  # type: ignore[attr-defined]  # the embedded repository has it
        changed = bench._replace(plate=plate)
        again = changed.done(*steps_of(self.what, log, 3))
        # B02's first field from its images, all others from before the changed step.
        assert calls(log) == {"step_0": 2, "step_1": 2, "step_2": 1, "step_3": 4, "step_4": 1}
        assert contents(again) == contents(changed.done(*steps_of(self.what, log, 3), run_options={"force": True}))

    @pytest.mark.parametrize("damage", ["gone", "truncated", "without its list", "the whole run"])
    def test_what_is_gone_or_damaged_is_computed_again(self, bench: Bench, damage: str) -> None:
        log = bench.folder / "log"
        first = bench.done(*steps_of(self.what, log))
        calls(log)
        for place in list((first.folder / "waypoints").iterdir()):
            if damage == "gone":
                shutil.rmtree(place)
            elif damage == "truncated":
                for file in place.glob("stack.*"):
                    file.write_bytes(file.read_bytes()[:-1])
            elif damage == "without its list":
                (place / "waypoints.json").unlink()
        if damage == "the whole run":
            shutil.rmtree(first.folder)
        again = bench.done(*steps_of(self.what, log, 3))
        assert calls(log)["step_0"] == 8
        assert contents(again) == contents(bench.done(*steps_of(self.what, log, 3), run_options={"force": True}))

    def test_force_takes_nothing_that_is_there(self, bench: Bench) -> None:
        log = bench.folder / "log"
        bench.done(*steps_of(self.what, log))
        first = calls(log)
        bench.done(*steps_of(self.what, log), run_options={"force": True})
        assert calls(log) == first

    def test_steps_that_cost_nothing_leave_nothing(self, bench: Bench) -> None:
        started = bench.done(Step(lambda stack: stack + 1), Step(lambda stack: stack + 2, save=True))
        assert not (started.folder / "waypoints").exists()

    @pytest.mark.parametrize(("setting", "value"), [("CACHE_GB", "1e-6"), ("SPARE_GB", "1e6")])
    def test_no_room_leaves_nothing_and_costs_nothing_else(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
    ) -> None:
        monkeypatch.setenv(f"OPENHCS_{setting}", value)
        log = bench.folder / "log"
        first = bench.done(*steps_of(self.what, log))
        assert ResultCache(bench.repository.runs_folder).usage().waypoint_bytes == 0
        assert len(first.table("doubles")) == 4
