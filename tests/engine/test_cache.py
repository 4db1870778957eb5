"""The store of runs keeps within its limit, loses nothing that somebody sees, and stays right when it is damaged."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.engine import filesystem, list_runs, load_run
from openhcs_jupyter.engine.cache import ResultCache, Usage
from openhcs_jupyter.engine.listing import runs_that_stay
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.pipeline import Step, Table
from tests.engine.bench import Bench, contents, fresh, until
from tests.engine.functions import total

GB = 1e9


def costly(stack: Any, by: int, size: int = 0, seconds: float = 0.01) -> Any:
    time.sleep(seconds)
    return np.resize(stack + np.uint16(by), (1, max(size, 1), 64)) if size else stack + np.uint16(by)


def steps(by: int = 0) -> list[Step]:
    return [Step(costly, {"by": 1}, name="first"), Step(costly, {"by": by}, name="last", save=True)]


def usage(bench: Bench) -> Usage:
    return ResultCache(bench.repository.runs_folder).usage()


def used(bench: Bench) -> int:
    told = usage(bench)
    return told.result_bytes + told.waypoint_bytes


class TestLimit:
    def test_what_saves_time_goes_before_results_and_the_least_worth_first(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cheap, dear = (
            [Step(costly, {"by": by, "seconds": seconds}, name="first"), Step(costly, {"by": by}, name="last")]
            for by, seconds in ((1, 0.005), (2, 0.05))
        )
        runs = [bench.done(*one, name=name) for one, name in ((dear, "dear"), (cheap, "cheap"))]
        before = usage(bench)
        assert before.waypoints == 8
        assert before.results == 8
        limit = before.result_bytes + before.waypoint_bytes * 0.6
        monkeypatch.setenv("OPENHCS_CACHE_GB", str(limit / GB))
        ResultCache(bench.repository.runs_folder).flush()
        after = usage(bench)
        assert after.result_bytes == before.result_bytes
        assert 0 < after.waypoint_bytes <= before.waypoint_bytes * 0.6
        left = [len(list((run.folder / "waypoints").iterdir())) for run in runs]
        assert left[0] == 4  # what took longest stays
        assert left[1] < 4

    def test_what_is_not_used_grows_old(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def one(seconds: float, by: int) -> list[Step]:
            return [Step(costly, {"by": by, "seconds": seconds}, name="first"), Step(costly, {"by": 0}, name="last")]

        old = bench.done(*one(0.02, 100), name="old")
        place = usage(bench)
        monkeypatch.setenv("OPENHCS_CACHE_GB", str((place.waypoint_bytes + 20 * place.result_bytes) / GB))
        cache = ResultCache(bench.repository.runs_folder)
        for by in range(1, 12):
            bench.done(*one(0.008, by), name=f"new{by}")
            with cache._open() as index:
                # What was removed last was worth as much as something new that costs less.
                index.execute("insert into age values ((select max(worth) from entry) * ?)", (1 + by / 10,))
        monkeypatch.setenv("OPENHCS_CACHE_GB", str((usage(bench).result_bytes + 3 * place.waypoint_bytes) / GB))
        cache.flush()
        assert not list((old.folder / "waypoints").iterdir())

    def test_the_latest_run_of_a_name_keeps_its_results_and_earlier_ones_say_that_theirs_are_gone(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = bench.done(*steps(by=3))
        expected = contents(first)
        latest = bench.done(*steps(by=4))
        shown = contents(latest)
        monkeypatch.setenv("OPENHCS_CACHE_GB", "1e-6")
        ResultCache(bench.repository.runs_folder).flush()
        assert contents(latest) == shown
        with pytest.raises(RunError, match=r"results of 4 of 4 units of run run .* were removed"):
            first.image("last", well="A01")
        again = bench.done(*steps(by=3))
        assert len(fresh(again)) == 4
        assert contents(again) == expected

    def test_results_that_a_later_run_shares_stay(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        first = bench.done(*steps())
        second = bench.done(*steps(), name="other")
        monkeypatch.setenv("OPENHCS_CACHE_GB", "1e-6")
        ResultCache(bench.repository.runs_folder).flush()
        assert contents(first) == contents(second)
        assert len(contents(second)) == 8

    def test_a_run_whose_journal_is_damaged_costs_itself_only(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = bench.done(*steps(), name="broken")
        with (broken.folder / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"event":"of-a-later-release","time":0}\n')
        monkeypatch.setenv("OPENHCS_CACHE_GB", str(1 / GB))
        other = bench.done(*steps(2), name="other")  # there is too much, and it looks which runs may go
        assert [run.id for run in list_runs(bench.repository)] == [other.id]
        assert broken.id in runs_that_stay(bench.repository.runs_folder)
        with pytest.raises(RunError, match=r"journal\.jsonl cannot be read from its byte"):
            load_run(bench.repository, broken.id).result()

    def test_clearing(self, bench: Bench) -> None:
        first, second = bench.done(*steps(by=1)), bench.done(*steps(by=2))
        cache = ResultCache(bench.repository.runs_folder)
        assert cache.clear(results=False) > 0
        assert (usage(bench).waypoints, usage(bench).results) == (0, 8)
        assert cache.clear(results=True) > 0
        assert usage(bench).results == 4
        assert contents(first) == {}
        assert len(contents(second)) == 8
        assert runs_that_stay(bench.repository.runs_folder) == {second.id}

    def test_the_limit_follows_the_disk(self, bench: Bench) -> None:
        bench.done(*steps())
        told = usage(bench)
        assert told.limit_bytes == pytest.approx((told.free_bytes + used(bench)) / 2, rel=0.05)


class TestDamage:
    def test_the_index_is_removed_in_mid_run(self, bench: Bench) -> None:
        gate = bench.folder / "gate"
        started = bench.start(*_gated(gate))
        until(lambda: (bench.repository.runs_folder / "results.sqlite").exists(), "the index")
        for file in bench.repository.runs_folder.glob("results.sqlite*"):
            file.unlink(missing_ok=True)  # SQLite removes some of them itself
        gate.touch()
        started.result()
        assert fresh(bench.done(*_gated(gate))) == set()

    @pytest.mark.parametrize("what", ["the run's folder", "all runs"])
    def test_the_folder_of_runs_is_removed_in_mid_run(self, bench: Bench, what: str) -> None:
        gate = bench.folder / "gate"
        started = bench.start(*_gated(gate))
        until(lambda: started.progress.stages[0].running, "a unit that is computed")
        shutil.rmtree(started.folder if what == "the run's folder" else bench.repository.runs_folder)
        gate.touch()
        started.wait()
        assert started.status == "failed"
        assert "was removed while the run went on" in started.message
        again = bench.done(*_gated(gate))
        assert len(again.table("totals")) == 4

    def test_a_file_system_without_hard_links(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        first = bench.done(*steps())

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "link", refused)
        second = bench.done(*steps())
        assert fresh(second) == set()
        assert contents(second) == contents(first)


class TestTwoMachines:
    """Two machines that share a folder have an index each; results appear by being renamed, and are checked."""

    def test_each_has_its_own_index_and_both_are_right(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        monkeypatch.setattr("openhcs_jupyter.engine.cache.is_local", lambda folder: False)
        store = bench.repository.runs_folder
        monkeypatch.setattr(socket, "gethostname", lambda: "one")
        first = bench.done(*steps())
        monkeypatch.setattr(socket, "gethostname", lambda: "two")
        second = bench.done(*steps())
        assert {path.name for path in store.glob("*.sqlite*")} == {"results.one.sqlite", "results.two.sqlite"}
        assert contents(second) == contents(first)
        # The other machine removes what this one knows.
        monkeypatch.setattr(socket, "gethostname", lambda: "one")
        shutil.rmtree(second.folder)
        ResultCache(store).clear(results=True)
        monkeypatch.setattr(socket, "gethostname", lambda: "two")
        third = bench.done(*steps())
        assert contents(third) == contents(first)
        mode = sqlite3.connect(store / "results.two.sqlite")
        assert mode.execute("pragma journal_mode").fetchone() == ("delete",)
        mode.close()

    def test_a_run_of_the_other_machine_is_not_removed(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = bench.folder / "gate"
        done = bench.done(Step(total, outputs=Table("totals")), name="slow")
        started = bench.start(*_gated(gate), name="slow")
        until(lambda: started.progress.stages[0].running, "a unit that is computed")
        monkeypatch.setenv("OPENHCS_CACHE_GB", "1e-6")
        ResultCache(bench.repository.runs_folder).flush()
        gate.touch()
        assert len(started.result().table("totals")) == 4
        assert len(load_run(bench.repository, done.id).table("totals")) == 8

    def test_which_folders_are_of_this_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table = tmp_path / "mounts"
        far = str(tmp_path / "far away").replace(" ", "\\040")
        table.write_text(f"/dev/vda / ext4 rw,relatime 0 0\nserver:/plates {far} nfs4 rw 0 0\n")
        monkeypatch.setattr(filesystem, "_TABLE", table)
        filesystem.is_local.cache_clear()
        assert filesystem.is_local(tmp_path)
        assert filesystem.is_local(tmp_path / "far")
        assert not filesystem.is_local(tmp_path / "far away" / "runs")
        filesystem.is_local.cache_clear()


def _gated(gate: Path) -> list[Step]:
    def gated(stack: Any, gate: Path) -> Any:
        while not gate.exists():
            time.sleep(0.002)
        return stack

    return [Step(gated, {"gate": gate}, channel="DAPI"), Step(total, channel="DAPI", outputs=Table("totals"))]
