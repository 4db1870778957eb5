"""Bad input, functions and places: a clear error that names the thing, and nothing that was finished is lost."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from openhcs_jupyter import Labels, Step, Table, measure, table
from openhcs_jupyter.compiler import Selection, compile
from openhcs_jupyter.engine import Run, load_run, run
from openhcs_jupyter.errors import CompileError, RunError
from openhcs_jupyter.functions import measure_objects, percentile_normalize, segment_nuclei
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline.contracts import Context
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import LONGEST_S, Bench, contents, fresh, lines, topology, until
from tests.engine.functions import total
from tests.plates import MadePlate

TOTALS = Step(total, channel="DAPI", outputs=Table("totals"))


def the_others_are_done(started: Run, *, well: str = "B02", field: int = 1) -> str:
    """Check that one field failed and the others did not; return why."""
    assert started.status == "failed"
    (failure,) = started.failures
    assert (failure.well, failure.field) == (well, field)
    assert started.progress.stages[0].done == started.progress.stages[0].total - 1
    return failure.message


class TestFiles:
    def test_a_file_that_became_shorter_after_import(self, bench: Bench) -> None:
        file = bench.made.file("B02", 1, 0, 1)
        os.truncate(file, file.stat().st_size - 50)
        message = the_others_are_done(bench.run(TOTALS))
        assert str(file) in message
        assert "changed since the plate was imported" in message

    def test_a_file_that_becomes_shorter_while_it_is_read(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(z=1, size=(256, 256))
        log, gate = bench.folder / "log", bench.folder / "gate"
        file = bench.made.file("B02", 1, 0, 0)

        def waits(stack: Any, context: Context) -> Any:
            import time

            if (context.well, context.field) == ("B02", 1):
                log.touch()
                while not gate.exists():
                    time.sleep(0.002)
            return stack.astype(np.int64) + 1

        started = bench.start(Step(waits, channel="DAPI"))
        until(log.exists, "the file to be mapped")
        os.truncate(file, 1000)
        gate.touch()
        assert started.wait(LONGEST_S)
        message = the_others_are_done(started)
        assert str(file) in message or "SIGBUS" in message

    def test_a_file_that_is_gone(self, bench: Bench) -> None:
        file = bench.made.file("B02", 1, 0, 2)
        file.unlink()
        message = the_others_are_done(bench.run(TOTALS))
        assert f"{file} is gone" in message

    def test_a_file_that_is_put_back_is_read_when_the_run_is_resumed(self, bench: Bench) -> None:
        file = bench.made.file("B02", 1, 0, 2)
        aside = bench.folder / "aside.tif"
        file.rename(aside)
        first = bench.run(TOTALS)
        assert first.status == "failed"
        aside.rename(file)
        resumed = bench.done(TOTALS, run_options={"resume": "last"})
        assert {(well, field) for well, field, _ in fresh(resumed)} == {("B02", 1)}
        expected = [int(bench.pixels(*place, 0).sum(dtype=np.int64)) for place in bench.places()]
        assert resumed.table("totals")["total"].tolist() == expected

    def test_a_damaged_file_that_must_be_decoded(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(compression="zlib")
        file = bench.made.file("B02", 1, 0, 0)
        status = file.stat()
        with tifffile.TiffFile(file) as tiff:
            offset, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        data = bytearray(file.read_bytes())
        data[offset : offset + size] = b"\xff" * size
        file.write_bytes(data)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        message = the_others_are_done(bench.run(TOTALS))
        assert str(file) in message

    def test_a_plane_that_is_missing_in_one_field(
        self, make_plate: Callable[..., MadePlate], repository: EmbeddedRepository, tmp_path: Path
    ) -> None:
        made = make_plate()
        made.file("B02", 1, 0, 1).unlink()
        plate = repository.plate(repository.import_plate(made.folder).id)
        bench = Bench(repository, made, plate, tmp_path)
        with pytest.raises(CompileError, match=r"B02 field 1.*'DAPI'.*slice 2"):
            bench.compile(TOTALS)
        started = bench.done(TOTALS, selection=Selection(skip_missing=True))
        assert [left.what for left in started.plan.left_out] == ["B02 field 1"]
        assert len(started.table("totals")) == 3


class TestPixels:
    @pytest.mark.parametrize("value", [0, 7, 65535])
    def test_constant_and_saturated_images(self, make_bench: Callable[..., Bench], value: int) -> None:
        bench = make_bench(z=1, size=(64, 64))
        started = bench.done(
            Step(lambda stack: np.full_like(stack, value), name="constant", channel="DAPI"),
            Step(percentile_normalize, {"low": 1, "high": 99}, channel="DAPI", save=True),
            Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
            Step(measure_objects, channel="DAPI", inputs={"labels": "nuclei"}, outputs=Table("objects")),
        )
        pixels = started.image("percentile_normalize", well="A01")
        assert np.isfinite(pixels.astype(np.float64)).all()
        assert len(started.table("objects")) == started.labels("nuclei", well="A01").max() * 4

    def test_nan_goes_through_to_the_results(self, bench: Bench) -> None:
        def holes(stack: Any) -> Any:
            pixels = stack.astype(np.float32)
            pixels[0, 0, 0] = np.nan
            return pixels

        @measure()
        def mean(stack: Any) -> dict[str, float]:
            return {"mean": float(stack.mean()), "inf": float("inf")}

        started = bench.done(Step(holes, channel="DAPI", save=True), Step(mean, channel="DAPI", outputs=Table("means")))
        assert np.isnan(started.image(well="A01")[0, 0, 0, 0, 0])
        assert started.table("means")["mean"].isna().all()
        assert np.isinf(started.table("means")["inf"]).all()

    def test_no_objects_in_one_field(self, bench: Bench) -> None:
        def some(stack: Any, context: Context) -> Any:
            return stack, np.full(stack.shape, context.well == "A01", np.int32)

        @measure()
        def count(stack: Any, labels: Any) -> Any:
            found = np.unique(labels[labels > 0])
            return pd.DataFrame({"label": found, "area": [int((labels == one).sum()) for one in found]})

        @table(over="plate")
        def summary(objects: Any) -> Any:
            return {"objects": len(objects), "area": float(objects["area"].sum())}

        started = bench.done(
            Step(some, channel="DAPI", outputs=Labels("areas")),
            Step(count, channel="DAPI", inputs={"labels": "areas"}, outputs=Table("objects")),
            Step(summary, inputs={"objects": "objects"}, outputs=Table("summary")),
        )
        objects = started.table("objects")
        assert objects["well"].tolist() == ["A01", "A01"]
        assert objects["label"].dtype.kind == "i"
        assert started.table("summary")["objects"].tolist() == [2]


class TestFunctionsThatAreWrong:
    @pytest.mark.parametrize(
        ("result", "told"),
        [
            (lambda stack: stack[0], r"shape \(24, 32\), not \(N, Y, X\).*\[None\]"),
            (lambda stack: stack[:0], r"shape \(0, 24, 32\)"),
            (lambda stack: None, "returned NoneType, not an array"),
            (lambda stack: [1, 2], "returned list, not an array"),
            (lambda stack: stack.astype(object), "dtype object"),
            (lambda stack: stack.astype(complex), "dtype complex128"),
            (lambda stack: stack.astype("U5"), "dtype <U5"),
            (lambda stack: (stack, stack), "returned 1 output beside its image, and the step names 0"),
        ],
    )
    def test_an_image_of_the_wrong_kind(self, bench: Bench, result: Callable[[Any], Any], told: str) -> None:
        def wrong(stack: Any, context: Context) -> Any:
            return result(stack) if (context.well, context.field) == ("B02", 1) else stack

        step = Step(wrong, channel="DAPI", save=True)
        started = bench.run(step)
        message = the_others_are_done(started)
        assert re.search(told, message), message
        assert (started.failures[0].step, started.failures[0].line) == ("wrong", step.line)

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (np.zeros((3, 24, 32)), "dtype float64; labels are whole numbers"),
            (np.zeros(5, int), "not an array"),
            ("labels", "is str, not an array"),
        ],
    )
    def test_labels_of_the_wrong_kind(self, bench: Bench, value: Any, told: str) -> None:
        def wrong(stack: Any) -> Any:
            return stack, value

        started = bench.run(Step(wrong, channel="DAPI", outputs=Labels("areas")))
        assert {f.step for f in started.failures} == {"wrong"}
        assert "'areas'" in started.failures[0].message
        assert told in started.failures[0].message

    def test_labels_beyond_32_bits_stay_what_they_are(self, bench: Bench) -> None:
        def far(stack: Any) -> Any:
            return stack, np.full(stack.shape[1:], 2**32 + 7)

        started = bench.run(Step(far, channel="DAPI", outputs=Labels("areas")))
        assert started.status == "done"
        assert set(started.labels("areas", well="A01").ravel()) == {2**32 + 7}

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (5, "is int, not a DataFrame"),
            ({"a": [1, 2], "b": [1]}, "length"),
            (None, "is NoneType, not a DataFrame"),
        ],
    )
    def test_tables_of_the_wrong_kind(self, bench: Bench, value: Any, told: str) -> None:
        @measure()
        def wrong(stack: Any) -> Any:
            return value

        started = bench.run(Step(wrong, channel="DAPI", outputs=Table("numbers")))
        assert {f.step for f in started.failures} == {"wrong"}
        assert "'numbers'" in started.failures[0].message
        assert told in started.failures[0].message

    @pytest.mark.parametrize(
        "value", [pd.DataFrame([[1, 2]], columns=["area", "area"]), pd.DataFrame({"1": [1], 1: [2]}), {"1": 1, 1: 2}]
    )
    def test_columns_of_one_name(self, bench: Bench, value: Any) -> None:
        @measure()
        def twice(stack: Any) -> Any:
            return value

        started = bench.run(Step(twice, channel="DAPI", outputs=Table("numbers")))
        assert len(started.failures) == 4
        assert "'numbers' cannot be made of its columns: several are named" in started.failures[0].message

    def test_a_column_of_other_values_in_each_field(self, bench: Bench) -> None:
        @measure()
        def either(stack: Any, context: Context) -> Any:
            return {"kind": "text" if context.field == 1 else 1}

        started = bench.run(Step(either, channel="DAPI", outputs=Table("numbers")), save=True)
        assert started.status == "failed"
        assert "The tables 'numbers' of different units do not go together" in started.message
        with pytest.raises(RunError, match=r"'numbers'.*kind"):
            started.table("numbers")

    def test_a_table_that_cannot_be_written(self, bench: Bench) -> None:
        @measure()
        def mixed(stack: Any) -> Any:
            return pd.DataFrame({"mixed": [1, "two", {3}]})

        started = bench.run(Step(mixed, channel="DAPI", outputs=Table("numbers")))
        assert len(started.failures) == 4
        assert "'numbers'" in started.failures[0].message

    def test_a_function_that_changes_its_input(self, bench: Bench) -> None:
        def changes(stack: Any) -> Any:
            stack += 1
            return stack

        started = bench.run(Step(changes, channel="DAPI"))
        assert "copy it first" in started.failures[0].message

    def test_a_function_that_raises_for_one_well(self, bench: Bench) -> None:
        def picky(stack: Any, context: Context) -> Any:
            if context.well == "B02":
                raise ValueError("this well")
            return stack

        started = bench.run(Step(picky, channel="DAPI", save=True), save=True)
        assert {(f.well, f.field) for f in started.failures} == {("B02", 1), ("B02", 2)}
        assert started.results_at is not None, "what is done is saved"
        assert '"complete": false' in (Path(started.results_at) / "provenance.json").read_text()

    def test_an_exception_that_cannot_be_told(self, bench: Bench) -> None:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        def mute(stack: Any) -> Any:
            raise MuteError

        started = bench.run(Step(mute, channel="DAPI"))
        assert [failure.message.split(" (in")[0] for failure in started.failures] == ["MuteError: (no message)"] * 4

    def test_an_exception_with_a_whole_array_in_it(self, bench: Bench) -> None:
        def chatty(stack: Any) -> Any:
            raise ValueError(str(stack.tolist()) * 100)

        started = bench.run(Step(chatty, channel="DAPI"))
        for failure in started.failures:
            assert "ValueError: [[[" in failure.message
            assert "characters ..." in failure.message
            assert len(failure.message) < 3000
            assert len(failure.traceback) < 30_000

    def test_a_function_that_never_returns(self, bench: Bench) -> None:
        def stuck(stack: Any, context: Context) -> Any:
            if (context.well, context.field) == ("B02", 1):
                threading.Event().wait()
            return stack

        step = Step(stuck, channel="DAPI")
        started = bench.run(step, run_options={"unit_timeout_s": 0.5})
        assert "longer than 0.5 s" in the_others_are_done(started)
        assert (started.failures[0].step, started.failures[0].line) == ("stuck", step.line)


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """Mount a disk in memory on a folder."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no disk can be mounted: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "size=1m"):
        yield place


class TestPlaces:
    def test_a_full_disk(self, small_disk: Path, make_plate: Callable[..., MadePlate], tmp_path: Path) -> None:
        made = make_plate(fields=6, z=1, size=(128, 128))
        with EmbeddedRepository(small_disk / "repository") as repository:
            plate = repository.plate(repository.import_plate(made.folder).id)
            bench = Bench(repository, made, plate, tmp_path)
            room = os.statvfs(small_disk)
            ballast = small_disk / "ballast"
            ballast.write_bytes(b"\0" * (room.f_bavail * room.f_frsize - 200_000))
            steps = [Step(lambda stack: stack, name="kept", channel="DAPI", save=True)]
            started = bench.start(*steps)
            assert started.wait(LONGEST_S), "a run on a full disk ends"
            assert started.status in ("failed", "interrupted")
            told = started.summary()
            assert "No space left" in told
            assert str(small_disk) in told
            whole = set(contents(started))
            assert whole, "some were done before"
            ballast.unlink()
            resumed = run(bench.compile(*steps), resume="last").result()
            assert resumed.id == started.id
            assert {f"0_{well}_f{field}" for well, field, _ in fresh(resumed)}.isdisjoint(
                name.rsplit("_", 1)[0] for name in {path.split("/")[0] for path in whole}
            )
            for place in bench.places():
                found = resumed.image(well=place[0], field=place[1])
                np.testing.assert_array_equal(found[0, 0], bench.pixels(*place, 0))

    def test_a_disk_that_is_full_from_the_start(
        self, small_disk: Path, make_plate: Callable[..., MadePlate], tmp_path: Path
    ) -> None:
        made = make_plate()
        with EmbeddedRepository(small_disk / "repository") as repository:
            plate = repository.plate(repository.import_plate(made.folder).id)
            bench = Bench(repository, made, plate, tmp_path)
            plan = bench.compile(TOTALS)
            room = os.statvfs(small_disk)
            (small_disk / "ballast").write_bytes(b"\0" * room.f_bavail * room.f_frsize)
            with pytest.raises(RunError, match="No space left"):
                run(plan)

    def test_a_folder_that_may_not_be_written(self, bench: Bench) -> None:
        place = bench.repository.runs_folder
        place.mkdir(mode=0o555)
        closed = mounted(place, "ro") if os.getuid() == 0 else contextlib.nullcontext()
        with closed, pytest.raises(RunError, match=r"Read-only file system|Permission denied") as caught:
            bench.start(TOTALS)
        assert str(place) in str(caught.value)

    def test_two_runs_at_once_on_one_plate(self, bench: Bench) -> None:
        plan = bench.compile(TOTALS, name="both")
        started = [run(plan, force=True) for _ in range(3)]
        assert len({one.id for one in started}) == 3
        for one in started:
            assert one.wait(LONGEST_S)
        tables = [one.result().table("totals") for one in started]
        for found in tables[1:]:
            pd.testing.assert_frame_equal(found, tables[0])

    def test_two_processes_at_once_on_one_plate(self, bench: Bench) -> None:
        log = bench.folder / "log"
        command = [sys.executable, "-m", "tests.engine.pipeline_script", bench.repository.uri, str(log)]
        root = Path(__file__).parents[2]
        both = [subprocess.Popen(command, cwd=root) for _ in range(2)]
        assert [one.wait(LONGEST_S) for one in both] == [0, 0]
        folders = sorted(bench.repository.runs_folder.glob("*-script-*"))
        first, second = (load_run(bench.repository, folder.name) for folder in folders)
        assert contents(first) == contents(second)
        assert lines(log)


class TestEmptyPipelines:
    def test_no_steps(self, bench: Bench) -> None:
        with pytest.raises(CompileError, match="no steps"):
            compile(Pipeline([]), bench.plate, topology())
