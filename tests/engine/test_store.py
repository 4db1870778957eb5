"""The run store: a unit's results are there whole or not at all, and what is read is what was written."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter import Step, Table, table
from openhcs_jupyter.engine import list_runs, load_run
from openhcs_jupyter.engine.store import Lock, RunFolder, read_array, write_array
from openhcs_jupyter.errors import RunError
from tests.engine.bench import Bench, contents, fresh
from tests.engine.functions import total


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Return the folder of a run that holds nothing yet."""
    (tmp_path / "run" / "units").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


def writes(data: bytes) -> Any:
    def write(file: BinaryIO) -> None:
        file.write(data)

    return write


class TestCommit:
    def test_all_files_of_a_unit_appear(self, folder: RunFolder) -> None:
        files = folder.commit("unit", {"a": writes(b"first"), "b": writes(b"second one")})
        assert {(file.name, file.size) for file in files} == {("a", 5), ("b", 10)}
        assert (folder.units / "unit" / "b").read_bytes() == b"second one"
        assert folder.holds("unit", files)

    def test_nothing_is_seen_while_it_is_written(self, folder: RunFolder) -> None:
        def look(file: BinaryIO) -> None:
            assert not (folder.units / "unit").exists()
            assert not folder.holds("unit", None)
            file.write(b"x")

        folder.commit("unit", {"a": look, "b": look})
        assert folder.holds("unit", None)

    def test_nothing_is_left_of_a_unit_that_could_not_be_written(self, folder: RunFolder) -> None:
        def fail(file: BinaryIO) -> None:
            file.write(b"half")
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            folder.commit("unit", {"a": writes(b"whole"), "b": fail})
        assert list(folder.units.iterdir()) == []

    def test_a_failed_attempt_leaves_the_older_result(self, folder: RunFolder) -> None:
        files = folder.commit("unit", {"a": writes(b"older")})

        def fail(file: BinaryIO) -> None:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            folder.commit("unit", {"a": fail})
        assert folder.holds("unit", files)

    def test_a_result_is_replaced_as_a_whole(self, folder: RunFolder) -> None:
        folder.commit("unit", {"a": writes(b"older"), "b": writes(b"b")})
        folder.commit("unit", {"a": writes(b"new")})
        assert [path.name for path in (folder.units / "unit").iterdir()] == ["a"]

    def test_a_unit_without_results_is_done_all_the_same(self, folder: RunFolder) -> None:
        assert folder.commit("unit", {}) == ()
        assert folder.holds("unit", ())

    def test_a_process_killed_while_it_writes_leaves_nothing_that_counts(self, folder: RunFolder) -> None:
        script = f"""
import os, signal
from pathlib import Path
from openhcs_jupyter.engine.store import RunFolder
def die(file):
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
RunFolder(Path({str(folder.path)!r})).commit("unit", {{"a": lambda file: file.write(b"a"), "b": die}})
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
        assert not folder.holds("unit", None)
        assert list(folder.units.iterdir())
        folder.sweep()
        assert list(folder.units.iterdir()) == []

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_file_of_another_size_is_noticed(self, folder: RunFolder, change: int) -> None:
        files = folder.commit("unit", {"a": writes(b"12345")})
        os.truncate(folder.units / "unit" / "a", 5 + change)
        assert not folder.holds("unit", files)


class TestArrays:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", "bool"])
    def test_arrays_come_back(self, tmp_path: Path, dtype: str) -> None:
        arrays = [np.random.default_rng(t).integers(0, 100, (3, 5, 7)).astype(dtype) for t in range(2)]
        with (tmp_path / "a.npy").open("wb", buffering=0) as file:
            write_array(arrays)(file)
        found = read_array(tmp_path / "a.npy")
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, np.stack(arrays))
        assert not found.flags.writeable

    @pytest.mark.parametrize("order", ["reversed", "transposed", "sliced", "broadcast"])
    def test_arrays_that_are_not_contiguous(self, tmp_path: Path, order: str) -> None:
        base = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)
        array = {
            "reversed": base[::-1, :, ::-1],
            "transposed": base.transpose(2, 0, 1),
            "sliced": base[1:3, ::2, 1::3],
            "broadcast": np.broadcast_to(base[:1], (4, 6, 8)),
        }[order]
        with (tmp_path / "a.npy").open("wb", buffering=0) as file:
            write_array([array])(file)
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy")[0], array)

    @pytest.mark.parametrize("other", [np.zeros((2, 4, 4), np.uint8), np.zeros((3, 4, 4), np.int8)])
    def test_time_points_that_are_not_alike_are_an_error(self, other: Any) -> None:
        with pytest.raises(ValueError, match="time point"):
            write_array([np.zeros((3, 4, 4), np.uint8), other])


class TestLock:
    def test_one_conductor_at_a_time(self, folder: RunFolder) -> None:
        assert not folder.is_conducted()
        lock = folder.lock()
        assert folder.is_conducted()
        with pytest.raises(RunError, match=f"Run {folder.run_id} is being conducted"):
            folder.lock()
        lock.close()
        lock.close()
        assert not folder.is_conducted()
        Lock(folder.path).close()

    def test_those_who_look_do_not_hinder_who_resumes(self, folder: RunFolder) -> None:
        folder.lock().close()
        (lock,) = (path for path in folder.path.iterdir() if path.is_file())
        with lock.open() as looker:
            fcntl.flock(looker, fcntl.LOCK_SH)
            timer = threading.Timer(0.02, lambda: fcntl.flock(looker, fcntl.LOCK_UN))
            timer.start()
            folder.lock().close()
            timer.join()

    def test_those_who_look_do_not_see_each_other(self, folder: RunFolder) -> None:
        folder.lock().close()
        with ThreadPoolExecutor(4) as pool:
            assert not any(pool.map(lambda _: folder.is_conducted(), range(400)))

    def test_a_dead_process_holds_nothing(self, folder: RunFolder) -> None:
        script = f"""
import os, signal
from pathlib import Path
from openhcs_jupyter.engine.store import RunFolder
lock = RunFolder(Path({str(folder.path)!r})).lock()
os.kill(os.getpid(), signal.SIGKILL)
"""
        subprocess.run([sys.executable, "-c", script], check=False)
        assert not folder.is_conducted()


class TestRecords:
    @pytest.mark.parametrize("file", ["run.json", "plan.json"])
    def test_a_folder_that_cannot_be_read_is_no_run(self, bench: Bench, file: str) -> None:
        started = bench.done(Step(total, outputs=Table("totals")))
        path = started.folder / file
        path.write_bytes(path.read_bytes()[:100])
        assert len(list_runs(bench.repository)) == (file == "plan.json")  # the list does without plans
        with pytest.raises(RunError, match="be read"):
            load_run(bench.repository, started.id)
        broken = RunFolder(started.folder)
        with pytest.raises(RunError, match="be read"):
            (broken.record if file == "run.json" else broken.plan)()

    def test_an_empty_folder_among_the_runs_is_passed_over(self, bench: Bench) -> None:
        started = bench.done(Step(total, outputs=Table("totals")))
        (started.folder.parent / "30000101-empty").mkdir()
        assert [summary.id for summary in list_runs(bench.repository)] == [started.id]


class TestReuse:
    def steps(self, factor: int = 1) -> list[Step]:
        def scaled(totals: Any, factor: int) -> Any:
            return pd.DataFrame({"scaled": [int(totals["total"].sum()) * factor]})

        return [
            Step(total, channel="DAPI", outputs=Table("totals")),
            Step(table(over="well")(scaled), {"factor": factor}, inputs={"totals": "totals"}, outputs=Table("scaled")),
        ]

    def test_a_new_run_takes_what_an_earlier_one_made(self, bench: Bench) -> None:
        first = bench.done(*self.steps())
        second = bench.done(*self.steps())
        assert second.id != first.id
        assert fresh(second) == set()
        assert contents(second) == contents(first)
        changed = bench.done(*self.steps(factor=3))
        assert {stage for _, _, stage in fresh(changed)} == {1}
        assert changed.table("scaled")["scaled"].tolist() == [3 * n for n in first.table("scaled")["scaled"]]

    def test_force_takes_nothing(self, bench: Bench) -> None:
        first = bench.done(*self.steps())
        again = bench.done(*self.steps(), run_options={"force": True})
        assert len(fresh(again)) == 6
        assert contents(again) == contents(first)

    def test_each_run_is_whole_by_itself(self, bench: Bench) -> None:
        first = bench.done(*self.steps())
        expected = contents(first)
        second = bench.done(*self.steps())
        shutil.rmtree(first.folder)
        assert contents(second) == expected
        third = bench.done(*self.steps())
        assert contents(third) == expected

    def test_results_that_are_damaged_are_not_taken(self, bench: Bench) -> None:
        first = bench.done(*self.steps())
        expected = contents(first)
        for file in (first.folder / "units").glob("0_B02_f1_*/*"):
            os.truncate(file, 10)
        second = bench.done(*self.steps())
        assert contents(second) == expected

    def test_without_its_index_everything_is_done_anew(self, bench: Bench) -> None:
        first = bench.done(*self.steps())
        for file in bench.repository.runs_folder.glob("results.sqlite*"):
            file.unlink()
        second = bench.done(*self.steps())
        assert len(fresh(second)) == 6
        assert contents(second) == contents(first)

    def test_an_index_that_cannot_be_read_is_named(self, bench: Bench) -> None:
        bench.done(*self.steps())
        index = bench.repository.runs_folder / "results.sqlite"
        for file in bench.repository.runs_folder.glob("results.sqlite-*"):
            file.unlink()
        index.write_bytes(b"no database at all" * 100)
        started = bench.run(*self.steps())
        assert started.status == "failed"
        assert str(index) in started.message

    def test_an_index_of_results_that_are_gone(self, bench: Bench) -> None:
        first = bench.done(*self.steps())
        shutil.rmtree(first.folder)
        with sqlite3.connect(bench.repository.runs_folder / "results.sqlite") as index:
            assert index.execute("select count(*) from entry").fetchone()[0] > 0
        index.close()
        assert len(fresh(bench.done(*self.steps()))) == 6
