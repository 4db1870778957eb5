"""Runs that are killed, cancelled, damaged or changed go on where they stopped, and end as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openhcs_jupyter import Step, Table, table
from openhcs_jupyter.compiler import Selection
from openhcs_jupyter.engine import Run, fork_server, load_run, run
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import RunStarted, UnitDone
from openhcs_jupyter.magics.views.runs import sentence, view_of
from openhcs_jupyter.pipeline.contracts import Context
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import LONGEST_S, Bench, contents, descendants, ended, fresh, journal, lines, until
from tests.engine.functions import total
from tests.engine.pipeline_script import plan_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def big(make_bench: Callable[..., Bench]) -> Bench:
    """Return a bench whose runs are long enough to be killed at any moment."""
    return make_bench(wells=("A01", "A02", "B01", "B02"), fields=6, z=1, size=(32, 32))


def undisturbed(bench: Bench, log: Path) -> dict[str, bytes]:
    """Run the script's steps in peace in another repository, and return what they give; later runs are slow."""
    with EmbeddedRepository(bench.folder / "reference") as reference:
        reference.import_plate(bench.made.folder)
        found = contents(run(plan_of(reference.uri, log)).result())
    assert set(Counter(lines(log)).values()) == {1}
    log.unlink()
    log.with_name("slow").touch()
    return found


def end_of_kill(bench: Bench, killed: Run, log: Path, expected: dict[str, bytes]) -> None:
    """Resume a run; its results must be as expected, and nothing that was finished is done again."""
    before = [event.unit for event in journal(killed) if isinstance(event, UnitDone)]
    calls_before = Counter(lines(log))
    units = killed.plan.units
    finished = {units[unit].key for unit in before} | {p.name for p in (killed.folder / "units").glob("[!.]*")}
    log.with_name("slow").unlink()
    plan = plan_of(bench.repository.uri, log)
    resumed = run(plan, resume=killed.id).result()
    assert contents(resumed) == expected
    assert not list((resumed.folder / "units").glob(".*"))
    again = Counter(lines(log)) - calls_before
    done_again = {f"{unit.well} {unit.field} bright" for unit in plan.units if unit.key in finished and unit.field}
    assert not done_again & set(again)
    assert set(again.values()) <= {1}
    assert {plan.units[unit].key for unit in range(len(plan.units))} >= finished
    reused = [event for event in journal(resumed) if isinstance(event, UnitDone) and event.reused]
    assert {plan.units[event.unit].key for event in reused} == finished
    assert resumed.progress.reused == len(finished)
    assert ("there already" in sentence(view_of(resumed))) == bool(finished)


class TestKills:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_a_conductor_is_killed(self, big: Bench, seed: int) -> None:
        log = big.folder / "witness.txt"
        expected = undisturbed(big, log)
        command = [sys.executable, "-m", "tests.engine.pipeline_script", big.repository.uri, str(log)]
        moment = random.Random(seed).randrange(1, 28)
        runs = big.repository.runs_folder
        with subprocess.Popen(command, cwd=ROOT) as conductor:
            try:

                def at_the_moment() -> Path | None:
                    for folder in runs.glob("*-script-*"):
                        if len(lines(log)) >= moment and lines(folder / "journal.jsonl"):
                            return folder
                    return None

                folder = until(at_the_moment, f"call {moment}")
                below = descendants(conductor.pid)
            finally:
                conductor.kill()
        assert len(below) >= 3, "fork server and two workers"
        until(ended(below), "the workers of a killed conductor to end")
        killed = load_run(big.repository, folder.name)
        assert killed.status in ("interrupted", "done")
        end_of_kill(big, killed, log, expected)

    @pytest.mark.parametrize("seed", [4, 5])
    def test_a_worker_is_killed(self, big: Bench, seed: int) -> None:
        log = big.folder / "witness.txt"
        expected = undisturbed(big, log)
        choice = random.Random(seed)
        moment = choice.randrange(1, 20)
        started = run(plan_of(big.repository.uri, log))
        until(lambda: len(lines(log)) >= moment, f"call {moment}")
        server = fork_server()._process
        assert server is not None
        os.kill(choice.choice(descendants(server.pid)), signal.SIGKILL)
        assert started.wait(LONGEST_S)
        assert started.status == "done"
        assert contents(started) == expected
        calls = Counter(lines(log))
        assert set(calls) == {
            *(f"{well} {field} bright" for well, field in big.places()),
            *(f"{well} wells" for well in big.made.wells),
            "plate",
        }
        assert sum(calls.values()) - len(calls) <= 3, "at most what the worker held is done again"

    def test_the_fork_server_is_killed(self, big: Bench) -> None:
        log = big.folder / "witness.txt"
        expected = undisturbed(big, log)
        started = run(plan_of(big.repository.uri, log))
        until(lambda: len(lines(log)) >= 5, "five calls")
        server = fork_server()._process
        assert server is not None
        server.kill()
        assert started.wait(LONGEST_S)
        assert started.status == "done"
        assert contents(started) == expected


class TestResume:
    def test_a_cancelled_run_goes_on(self, big: Bench) -> None:
        log = big.folder / "witness.txt"
        (big.folder / "slow").touch()
        plan = plan_of(big.repository.uri, log)
        started = run(plan)
        until(lambda: started.progress.stages[0].done >= 5, "five units")
        started.cancel()
        assert started.wait(LONGEST_S)
        assert started.status == "cancelled"
        done = {event.unit for event in journal(started) if isinstance(event, UnitDone)}
        with pytest.raises(RunError, match="resume"):
            started.result()
        resumed = run(plan, resume="last")
        assert resumed.id == started.id
        assert resumed.status == "running", "how it ended before is past"
        assert any(isinstance(event, UnitDone) for event in resumed.events())
        assert resumed.result().status == "done"
        first, *_ = journal(resumed)
        assert isinstance(first, RunStarted)
        assert first.kept >= len(done)
        assert not fresh(resumed) & {(plan.units[u].well, plan.units[u].field, plan.units[u].stage) for u in done}

    def test_a_run_that_is_done_is_kept_as_it_is(self, bench: Bench) -> None:
        first = bench.done(Step(total, outputs=Table("totals")))
        again = bench.done(Step(total, outputs=Table("totals")), run_options={"resume": first.id})
        assert again.id == first.id
        assert not fresh(again)

    def test_its_record_says_when_it_was_started_first(self, bench: Bench) -> None:
        first = bench.done(Step(total, outputs=Table("totals")))
        record = first.folder / "run.json"
        record.write_text(record.read_text().replace(first.record.started, "2020-02-02T02:02:02+00:00"))
        again = bench.done(Step(total, outputs=Table("totals")), run_options={"resume": first.id})
        assert load_run(bench.repository, again.id).record.started == "2020-02-02T02:02:02+00:00"

    def test_changed_code_does_again_what_depends_on_it(self, bench: Bench) -> None:
        log = bench.folder / "witness.txt"

        def steps(summary: Any, factor: int = 2) -> list[Step]:
            def scaled(stack: Any, factor: int) -> Any:
                return stack * factor

            @table(over="well")
            def wells(totals: Any) -> Any:
                return totals.groupby("well", as_index=False)["total"].sum()

            return [
                Step(scaled, {"factor": factor}, channel="DAPI"),
                Step(total, channel="DAPI", outputs=Table("totals")),
                Step(wells, inputs={"totals": "totals"}, outputs=Table("wells")),
                Step(table(over="plate")(summary), inputs={"wells": "wells"}, outputs=Table("plate")),
            ]

        def largest(wells: Any) -> dict[str, int]:
            return {"value": int(wells["total"].max())}

        def smallest(wells: Any) -> dict[str, int]:
            return {"value": int(wells["total"].min())}

        first = bench.done(*steps(largest))
        same = bench.done(*steps(largest), run_options={"resume": first.id})
        assert fresh(same) == set()
        changed = bench.done(*steps(smallest), run_options={"resume": first.id})
        assert fresh(changed) == {(None, None, 2)}
        sums = {
            well: sum(2 * int(bench.pixels(well, field, 0).sum(dtype="int64")) for field in (1, 2))
            for well in bench.made.wells
        }
        # Twice a pixel of 16 bits stays below 65536, so nothing wraps.
        assert changed.table("plate")["value"].tolist() == [min(sums.values())]
        other = bench.done(*steps(smallest, factor=3), run_options={"resume": first.id})
        assert len(fresh(other)) == 4 + 2 + 1
        back = bench.done(*steps(largest), run_options={"resume": first.id})
        assert fresh(back) == set(), "results are found by what they were made from"
        assert back.table("plate")["value"].tolist() == [max(sums.values())]
        assert not log.exists()

    def test_fewer_wells_than_before(self, bench: Bench) -> None:
        first = bench.done(Step(total, outputs=Table("totals")))
        fewer = bench.done(
            Step(total, outputs=Table("totals")),
            selection=Selection(wells=("B02",)),
            run_options={"resume": first.id},
        )
        assert fresh(fewer) == set()
        assert set(fewer.table("totals")["well"]) == {"B02"}
        assert set(load_run(bench.repository, first.id).table("totals")["well"]) == {"B02"}

    def test_force_does_everything_again(self, bench: Bench) -> None:
        first = bench.done(Step(total, outputs=Table("totals")))
        again = bench.done(Step(total, outputs=Table("totals")), run_options={"resume": first.id, "force": True})
        assert len(fresh(again)) == 4

    @pytest.mark.parametrize("damage", ["shorter", "gone", "folder gone", "half written"])
    def test_damaged_results_are_made_again(self, bench: Bench, damage: str) -> None:
        def wells(totals: Any) -> Any:
            return totals.groupby("well", as_index=False)["total"].sum()

        steps = [
            Step(lambda stack: stack, name="kept", channel="DAPI", save=True),
            Step(total, channel="DAPI", outputs=Table("totals")),
            Step(table(over="well")(wells), inputs={"totals": "totals"}, outputs=Table("wells")),
        ]
        first = bench.done(*steps)
        expected = contents(first)
        (place,) = (first.folder / "units").glob("0_B02_f1_*")
        (file,) = place.glob("*.npy")
        if damage == "shorter":
            os.truncate(file, file.stat().st_size - 100)
        elif damage == "gone":
            file.unlink()
        else:
            if damage == "half written":
                shutil.copytree(place, place.with_name(f".{place.name}.4711"))
            shutil.rmtree(place)
        resumed = bench.done(*steps, run_options={"resume": first.id})
        assert ("B02", 1, 0) in fresh(resumed)
        assert {well for well, _, _ in fresh(resumed)} == {"B02"}
        assert contents(resumed) == expected

    def test_a_line_of_the_journal_that_was_not_written_to_its_end(self, bench: Bench) -> None:
        steps = [Step(total, channel="DAPI", outputs=Table("totals"))]
        first = bench.done(*steps)
        path = first.folder / "journal.jsonl"
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:3]) + whole[3][:20])
        broken = load_run(bench.repository, first.id)
        assert broken.status == "interrupted"
        assert broken.progress.stages[0].done == 2
        resumed = bench.done(*steps, run_options={"resume": "last"})
        assert fresh(resumed) == set(), "units whose folders are whole are kept"
        assert len(resumed.table("totals")) == 4
        assert all(line.endswith(b"}\n") for line in path.read_bytes().splitlines(keepends=True))

    def test_a_table_of_a_part_is_made_again_when_the_rest_is_there(self, bench: Bench) -> None:
        gate = bench.folder / "mended"

        def picky(stack: Any, context: Context) -> Any:
            if (context.well, context.field) == ("B02", 1) and not gate.exists():
                raise ValueError("not yet")
            return stack

        @table(over="well")
        def wells(totals: Any) -> Any:
            return totals.groupby("well", as_index=False)["total"].sum()

        @table(over="plate")
        def plate(wells: Any) -> Any:
            return {"total": int(wells["total"].sum())}

        steps = [
            Step(picky, channel="DAPI"),
            Step(total, channel="DAPI", outputs=Table("totals")),
            Step(wells, inputs={"totals": "totals"}, outputs=Table("wells")),
            Step(plate, inputs={"wells": "wells"}, outputs=Table("plate")),
        ]
        sums = {place: int(bench.pixels(*place, 0).sum(dtype="int64")) for place in bench.places()}
        first = bench.run(*steps)
        assert first.status == "failed"
        assert first.table("plate")["total"].tolist() == [sum(sums.values()) - sums["B02", 1]]
        gate.touch()
        mended = bench.done(*steps, run_options={"resume": "last"})
        assert fresh(mended) == {("B02", 1, 0), ("B02", None, 1), (None, None, 2)}
        assert mended.table("plate")["total"].tolist() == [sum(sums.values())]
        assert mended.failures == ()


class TestWhichRun:
    def test_there_is_no_run_to_resume(self, bench: Bench) -> None:
        with pytest.raises(RunError, match="left to resume"):
            bench.start(Step(total, outputs=Table("totals")), run_options={"resume": "last"})
        with pytest.raises(RunError, match="no run '20200101-nothing'"):
            bench.start(Step(total, outputs=Table("totals")), run_options={"resume": "20200101-nothing"})

    def test_last_is_the_latest_of_this_name_that_did_not_end_well(self, bench: Bench) -> None:
        def bad(stack: Any) -> Any:
            raise ValueError("bad")

        failed = bench.run(Step(bad, channel="DAPI"), name="mine")
        bench.done(Step(total, outputs=Table("totals")), name="mine")
        bench.run(Step(bad, channel="DAPI"), name="another")
        resumed = bench.done(Step(total, outputs=Table("totals")), name="mine", run_options={"resume": "last"})
        assert resumed.id == failed.id

    def test_a_run_that_is_being_conducted_cannot_be_resumed(self, bench: Bench) -> None:
        gate = bench.folder / "gate"

        def gated(stack: Any) -> Any:
            import time

            while not gate.exists():
                time.sleep(0.002)
            return stack

        steps = [Step(gated, channel="DAPI")]
        started = bench.start(*steps)
        for resume in ("last", started.id):
            with pytest.raises(RunError, match=started.id):
                bench.start(*steps, run_options={"resume": resume})
        gate.touch()
        assert started.result().status == "done"
