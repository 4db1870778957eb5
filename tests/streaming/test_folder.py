"""A run's folder in a viewer: every plane, label, table and the way the run ended, with no kernel."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openhcs_jupyter.errors import RunError, StreamError
from openhcs_jupyter.functions import max_projection, measure_objects, percentile_normalize, segment_nuclei
from openhcs_jupyter.pipeline import Labels, Step, Table
from openhcs_jupyter.streaming import FolderSource, PlaneRequest, TableRequest
from openhcs_jupyter.streaming.fetching import Fetchers
from openhcs_jupyter.streaming.layers import Progressed, RunAnnounced
from tests.engine.bench import Bench, until
from tests.streaming.functions import fail_in, hold
from tests.streaming.heard import Heard

STEPS = (
    Step(percentile_normalize, {"low": 1, "high": 99}),
    Step(max_projection, save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
)


def test_a_finished_run_shows_all_there_is(bench: Bench) -> None:
    run = bench.done(*STEPS)
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        heard.until_ended()
        view = heard.view()
        assert (view.name, view.plate, view.rows, view.columns) == ("run", bench.plate.name, 8, 12)
        assert [well.name for well in view.wells] == ["A01", "B02"]
        assert view.fields == (1, 2)
        assert [layer.name for layer in view.layers] == [
            "max_projection DAPI", "max_projection GFP", "nuclei", "nuclei (table)",
        ]  # fmt: skip
        nuclei = heard.layer("nuclei")
        assert (nuclei.over, nuclei.channel, nuclei.pixel_size_um) == (0, "DAPI", 0.65)
        assert view.extent(heard.layer("max_projection GFP")) == (2, 2, 1, 1, 24, 32)
        assert len(heard.stacks()) == 12
        for (layer, well, field), ready in heard.stacks().items():
            place = {"well": view.wells[well].name, "field": view.fields[field]}
            expected = run.labels("nuclei", **place)[0, 0, 0] if layer == 2 else run.image(**place)[0, layer, 0]
            np.testing.assert_array_equal(heard.plane(ready), expected)
        assert len(heard.tables()) == 4
        for (layer, well, field), ready in heard.tables().items():
            rows = source.fetch_table(TableRequest(run=run.id, layer=layer, well=well, field=field)).result(10)
            table = run.table("nuclei")
            mine = table[(table["well"] == view.wells[well].name) & (table["field"] == view.fields[field])]
            assert rows.num_rows == ready.rows == len(mine)
        ends = [progress for progress in heard.of(Progressed) if progress.well == 1]
        assert (ends[-1].well_done, ends[-1].well_failed) == (view.wells[1].units, 0)


def test_a_run_that_goes_on_is_followed(bench: Bench) -> None:
    gate = bench.folder / "gate"
    run = bench.start(Step(hold, {"gate": str(gate)}, save=True))
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        until(lambda: heard.status() == "running", "the run to be announced")
        assert not heard.stacks()
        gate.touch()
        heard.until_ended()
        assert len(heard.stacks()) == 8
        late = Heard(source)
        assert late.stacks() == heard.stacks()
    assert run.wait(10)


def test_a_unit_that_fails_says_why_in_its_well(bench: Bench) -> None:
    run = bench.run(Step(fail_in, {"well": "B02"}), *STEPS[1:3])
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        heard.until_ended(status="failed")
        told = {a.well: (a.well_failed, a.reason) for a in heard.of(Progressed) if a.well is not None}
        assert told[0] == (0, "")
        failed, reason = told[1]
        assert failed == 2
        assert re.match("field [12], step fail_in: ValueError: <b>dark</b> in B02", reason)


def test_a_resumed_run_is_announced_anew(bench: Bench) -> None:
    run = bench.done(*STEPS[:2])
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        heard.until_ended()
        again = bench.start(*STEPS, run_options={"resume": run.id})
        until(lambda: len(heard.of(RunAnnounced)) == 2, "the new start")
        until(lambda: len(heard.view().layers) == 4 and len(heard.tables()) == 4, "the new results")
        assert again.wait(60)
        late = Heard(source)
        assert len(late.of(RunAnnounced)) == 1
        assert len(late.stacks()) == 12


def test_a_run_whose_process_was_killed_is_interrupted(bench: Bench) -> None:
    run = bench.done(*STEPS[:2])
    journal = run.folder / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        heard.until_ended(status="interrupted")
        assert len(heard.stacks()) == 8


def test_coarse_planes_are_an_eighth(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(size=(260, 200), z=1)
    run = bench.done(Step(max_projection, save=True))
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        heard.until_ended()
        ready = next(iter(heard.stacks().values()))
        coarse = heard.plane(ready, coarse=True)
        assert coarse.shape == (33, 25)
        assert coarse.dtype == np.uint16
        assert abs(float(coarse.mean()) - float(heard.plane(ready).mean())) < 20
        assert ready.low < ready.high


def test_what_is_not_there_is_an_error(bench: Bench) -> None:
    run = bench.done(*STEPS[:2])
    with FolderSource(run.folder) as source:
        heard = Heard(source)
        heard.until_ended()
        for wrong in ({"layer": 9}, {"well": 7}, {"z": 1}, {"t": -1}):
            place = {"layer": 0, "well": 0, "field": 0, "t": 0, "z": 0} | wrong
            with pytest.raises(StreamError, match=r"not there|no plane"):
                source.fetch(PlaneRequest(run=run.id, **place)).result(10)


def test_what_is_visible_is_fetched_first_and_what_is_withdrawn_is_not() -> None:
    gate, done = threading.Event(), []
    fetchers = Fetchers(1)
    fetchers.submit(lambda: gate.wait(10), (0, 0))
    wanted = [
        fetchers.submit(lambda i=i: done.append(i), urgency) for i, urgency in enumerate([(2, 0), (0, 1), (0, 0)])
    ]
    withdrawn = fetchers.submit(lambda: done.append("withdrawn"), (0, 0))
    assert withdrawn.cancel()
    gate.set()
    for future in wanted:
        future.result(10)
    fetchers.close()
    assert done == [2, 1, 0]
    assert fetchers.submit(lambda: None, (0, 0)).cancelled()


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=str(tmp_path)):
        FolderSource(tmp_path)
